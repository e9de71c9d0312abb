"""Fast blocks equal open_clip's blocks, in output and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.encoder import fast_blocks
from models.encoder.fast_blocks import is_standard_block, run_block, run_block_for_class_token
from tests.builders import towers

ROUNDING = 1e-4
"""Rounding of float32, in sums of some hundred products of activations about 10."""
PLAIN = pytest.mark.parametrize("kind", ["plain", "quickgelu", "ViT-B-32", "ViT-B-32-quickgelu", "ViT-H-14", "layer scale"])


def block(kind: str) -> Any:
    """Return the last block, with weights and biases moved from their initialisation."""
    tower: Any = towers.encoder(kind).network.get_submodule("visual.transformer")
    made = tower.resblocks[-1]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made


def tokens() -> torch.Tensor:
    return torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def onednn_widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Output widths of the products computed by oneDNN."""
    widths: list[int] = []
    linear = fast_blocks._apply_linear

    def noted(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        widths.append(len(weight))
        return linear(rows, weight, bias)

    monkeypatch.setattr(fast_blocks, "_apply_linear", noted)
    return widths


@PLAIN
def test_run_block_equals_the_block_without_gradients(kind: str, onednn_widths: list[int]) -> None:
    whole = block(kind)
    with torch.no_grad():
        assert run_block(whole, tokens()).numpy() == pytest.approx(whole(tokens()).numpy(), abs=ROUNDING)
    assert onednn_widths == [192, 64, whole.mlp.c_fc.out_features, 64]


@PLAIN
def test_run_block_for_class_token_equals_the_class_token_of_the_block(kind: str, onednn_widths: list[int]) -> None:
    whole = block(kind)
    wanted = whole(tokens())[:, :1].detach().numpy()
    assert run_block_for_class_token(whole, tokens()).detach().numpy() == pytest.approx(wanted, abs=ROUNDING)
    assert onednn_widths == []
    with torch.inference_mode():
        assert run_block_for_class_token(whole, tokens()).numpy() == pytest.approx(wanted, abs=ROUNDING)
    assert onednn_widths == [whole.mlp.c_fc.out_features, 64]


@PLAIN
def test_run_block_for_class_token_has_the_gradients_of_the_block(kind: str) -> None:
    short, whole = block(kind).requires_grad_(), block(kind).requires_grad_()
    inputs = [tokens().requires_grad_() for _ in range(2)]
    for made in (run_block_for_class_token(short, inputs[0]), whole(inputs[1])[:, :1]):
        torch.autograd.backward(made.square().sum())
    for (name, one), other in zip(short.named_parameters(), whole.parameters(), strict=True):
        assert one.grad.numpy() == pytest.approx(other.grad.numpy(), abs=2e-3, rel=1e-4), name
    assert inputs[0].grad is not None and inputs[1].grad is not None
    assert inputs[0].grad.numpy() == pytest.approx(inputs[1].grad.numpy(), abs=2e-3, rel=1e-4)


def test_with_gradients_or_autocast_the_block_itself_runs(onednn_widths: list[int]) -> None:
    whole = block("plain")
    assert torch.equal(run_block(whole, tokens()), whole(tokens()))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run_block(whole, tokens()), whole(tokens()))
    assert onednn_widths == []


@PLAIN
def test_in_bfloat16_the_fast_block_is_as_exact_as_the_block(kind: str) -> None:
    whole = block(kind)
    with torch.no_grad():
        exact = whole(tokens())[:, :1]
        with torch.autocast("cpu", torch.bfloat16):
            off = [
                (made.float() - exact).abs().mean() for made in (run_block_for_class_token(whole, tokens()), whole(tokens())[:, :1])
            ]
    assert 0 < off[0] < 1.5 * off[1]


def test_a_non_standard_block_runs_itself(onednn_widths: list[int]) -> None:
    custom, sequence_first = block("custom blocks"), block("plain")
    sequence_first.attn.batch_first = False
    with torch.no_grad():
        for whole in (custom, sequence_first):
            assert not is_standard_block(whole)
            assert torch.equal(run_block(whole, tokens()), whole(tokens()))
    assert onednn_widths == []


def test_bfloat16_products_leave_the_residual_stream_in_float32(onednn_widths: list[int]) -> None:
    """Attention and MLP in bfloat16, with the outputs of the norms cast to it."""
    whole = block("plain")
    with torch.no_grad():
        exact = run_block_for_class_token(whole, tokens())
        onednn_widths.clear()
        for norm, products in ((whole.ln_1, whole.attn), (whole.ln_2, whole.mlp)):
            products.to(torch.bfloat16)
            norm.register_forward_hook(lambda *given: given[-1].to(torch.bfloat16))
        coarse = run_block_for_class_token(whole, tokens())
        assert torch.equal(run_block(whole, tokens()), whole(tokens()))
    assert coarse.dtype == torch.float32
    assert 0 < (coarse - exact).abs().mean() < 1.5 * (whole(tokens())[:, :1] - exact).abs().mean()
    assert onednn_widths == []
