from __future__ import annotations

import models.encoder  # noqa: F401 - before open_clip

# isort: split
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import pytest
import torch

from models.classifier.head import LinearHead, zero_shot_head
from models.classifier.prompts import Prompts, read_prompts
from models.encoder.encoder import Encoder
from models.errors import CheckpointIncompatible
from pipeline.domain import FINDINGS
from tests.builders import tiny

TWO = Prompts(
    positive=("{}", "film with {}"),
    negative=("no {}", "a normal film"),
    phrases={"Mass": ("mass", "tumour"), "Hernia": ("hernia",)},
)


def test_the_file_has_every_finding_in_order_with_whole_sentences() -> None:
    prompts = read_prompts()
    assert prompts.findings == FINDINGS
    for finding in FINDINGS:
        texts = [*prompts.positives(finding), *prompts.negatives(finding)]
        assert len(texts) == len(set(texts)) >= 10
        assert not any("{" in text or "_" in text for text in texts)


def test_every_template_takes_every_phrase_without_repeats() -> None:
    assert TWO.positives("Mass") == ["mass", "tumour", "film with mass", "film with tumour"]
    assert TWO.negatives("Mass") == ["no mass", "no tumour", "a normal film"]


def test_the_fingerprint_depends_on_content_and_order() -> None:
    other = Prompts(TWO.positive, TWO.negative, dict(sorted(TWO.phrases.items())))
    more = Prompts(TWO.positive, (*TWO.negative, "clear"), TWO.phrases)
    assert len({TWO.fingerprint, other.fingerprint, more.fingerprint}) == 3
    assert TWO.fingerprint == Prompts(TWO.positive, TWO.negative, dict(TWO.phrases)).fingerprint


@pytest.mark.parametrize(
    "content",
    [
        '[templates]\npositive=["{}"]\nnegative=[]\n[phrases]\nMass=["mass"]',
        '[templates]\npositive=["{}"]\nnegative=["no {}"]\n[phrases]\nMass=[]',
    ],
)
def test_an_empty_list_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "prompts.toml").write_text(content)
    with pytest.raises(ValueError, match="at least one"):
        read_prompts(tmp_path / "prompts.toml")


def test_the_direction_equals_the_explicit_computation() -> None:
    encoder = tiny.encoder()
    head = zero_shot_head(encoder, TWO)

    def mean(*texts: str) -> npt.NDArray[np.float64]:
        each = [encoder.encode_texts([text])[0].double().numpy() for text in texts]
        return np.asarray(np.mean([vector / np.linalg.norm(vector) for vector in each], axis=0))

    difference = mean("mass", "tumour", "film with mass", "film with tumour") - mean("no mass", "no tumour", "a normal film")
    length = np.linalg.norm(difference)
    assert head.directions[0].numpy() == pytest.approx(difference / length, abs=1e-4)
    assert float(head.scale[0]) == pytest.approx(encoder.temperature * length, rel=1e-4)
    assert head.directions.norm(dim=1).numpy() == pytest.approx(1.0, abs=1e-6)


def test_the_score_is_the_clip_softmax_over_finding_and_denial() -> None:
    encoder = tiny.encoder()
    one = Prompts(positive=("{}",), negative=("no {}",), phrases={"Mass": ("mass",)})
    features = encoder.encode_images(torch.rand(5, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(1)))
    texts = encoder.encode_texts(["mass", "no mass"])
    expected = torch.softmax(encoder.temperature * features @ texts.T, dim=1)[:, :1]
    assert zero_shot_head(encoder, one).scores(features).numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_the_logit_is_linear_with_bias() -> None:
    head = LinearHead(torch.eye(2), torch.tensor([10.0, 1.0]), torch.tensor([0.0, -3.0]))
    features = torch.tensor([[0.6, 0.8], [-1.0, 0.0]])
    assert head.logits(features).tolist() == [pytest.approx([6.0, -2.2]), pytest.approx([-10.0, -3.0])]
    assert head.scores(features)[1].tolist() == pytest.approx([4.54e-5, 0.0474], rel=1e-2)


def test_a_standardised_head_keeps_the_ranking_with_mean_0_and_deviation_1() -> None:
    head = LinearHead(torch.eye(3), torch.tensor([10.0, 0.1, 0.0]), torch.tensor([0.0, -3.0, 1.0]))
    features = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    standardised = head.standardised(features)
    assert standardised.logits(features).mean(dim=0).tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-5)
    assert standardised.logits(features).std(dim=0, correction=0).tolist() == pytest.approx([1.0, 1.0, 0.0], abs=1e-5)
    assert torch.equal(standardised.logits(features).argsort(dim=0)[:, :2], head.logits(features).argsort(dim=0)[:, :2])


def test_a_text_tower_of_equal_vectors_is_refused() -> None:
    encoder = tiny.encoder()
    encoder.network.get_parameter("text_projection").zero_()
    with pytest.raises(CheckpointIncompatible, match="denial"):
        zero_shot_head(Encoder(encoder.architecture, encoder.network), TWO)


def test_a_head_of_inconsistent_shapes_is_refused() -> None:
    with pytest.raises(CheckpointIncompatible):
        LinearHead.from_tensors({"directions": torch.zeros(2, 4), "scale": torch.ones(3), "bias": torch.zeros(2)})
    with pytest.raises(CheckpointIncompatible, match="classifier"):
        LinearHead.from_tensors({"classifier": torch.zeros(2, 4)})


def test_text_vectors_equal_open_clip_in_any_batch() -> None:
    encoder = tiny.encoder()
    tokens = open_clip.SimpleTokenizer()
    texts = ["mass", "a frontal chest x-ray with a small round lung nodule", "word " * 200]
    for chosen in (texts[:1], texts[:2], texts):
        expected = encoder.network.encode_text(tokens(chosen), normalize=True)  # type: ignore[operator] # nn.Module
        assert encoder.encode_texts(chosen).numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    assert encoder.network.get_parameter("positional_embedding").shape == (77, 32)
    assert encoder.network.state_dict().keys() == tiny.encoder().network.state_dict().keys()
