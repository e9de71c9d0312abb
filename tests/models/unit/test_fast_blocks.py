"""The short cuts through a transformer block give what the block gives: every number of it, and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.encoder import fast_blocks
from models.encoder.fast_blocks import is_standard_block, run_block, run_block_for_class_token
from tests.builders import towers

ROUNDING = 1e-4
"""Of float32, in sums of some hundred products of activations about 10."""
PLAIN = pytest.mark.parametrize("kind", ["plain", "quickgelu", "ViT-B-32", "ViT-B-32-quickgelu", "ViT-H-14", "layer scale"])


def block(kind: str) -> Any:
    """The last one, with weights, and biases too, that are no longer those of the start."""
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
def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The widths of what oneDNN made."""
    widths: list[int] = []
    linear = fast_blocks._apply_linear

    def noted(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        widths.append(len(weight))
        return linear(rows, weight, bias)

    monkeypatch.setattr(fast_blocks, "_apply_linear", noted)
    return widths


@PLAIN
def test_a_block_without_gradients_is_the_block(kind: str, multiplied: list[int]) -> None:
    whole = block(kind)
    with torch.no_grad():
        assert run_block(whole, tokens()).numpy() == pytest.approx(whole(tokens()).numpy(), abs=ROUNDING)
    assert multiplied == [192, 64, whole.mlp.c_fc.out_features, 64]


@PLAIN
def test_the_class_token_alone_is_that_of_the_block(kind: str, multiplied: list[int]) -> None:
    whole = block(kind)
    wanted = whole(tokens())[:, :1].detach().numpy()
    assert run_block_for_class_token(whole, tokens()).detach().numpy() == pytest.approx(wanted, abs=ROUNDING)
    assert multiplied == []
    with torch.inference_mode():
        assert run_block_for_class_token(whole, tokens()).numpy() == pytest.approx(wanted, abs=ROUNDING)
    assert multiplied == [whole.mlp.c_fc.out_features, 64]


@PLAIN
def test_so_are_its_gradients(kind: str) -> None:
    short, whole = block(kind).requires_grad_(), block(kind).requires_grad_()
    entering = [tokens().requires_grad_() for _ in range(2)]
    for made in (run_block_for_class_token(short, entering[0]), whole(entering[1])[:, :1]):
        torch.autograd.backward(made.square().sum())
    for (name, one), other in zip(short.named_parameters(), whole.parameters(), strict=True):
        assert one.grad.numpy() == pytest.approx(other.grad.numpy(), abs=2e-3, rel=1e-4), name
    assert entering[0].grad is not None and entering[1].grad is not None
    assert entering[0].grad.numpy() == pytest.approx(entering[1].grad.numpy(), abs=2e-3, rel=1e-4)


def test_where_a_gradient_or_another_precision_is_asked_for_the_block_itself_runs(multiplied: list[int]) -> None:
    whole = block("plain")
    assert torch.equal(run_block(whole, tokens()), whole(tokens()))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run_block(whole, tokens()), whole(tokens()))
    assert multiplied == []


@PLAIN
def test_in_half_precision_the_short_cut_is_no_farther_off_than_the_block(kind: str) -> None:
    whole = block(kind)
    with torch.no_grad():
        exact = whole(tokens())[:, :1]
        with torch.autocast("cpu", torch.bfloat16):
            off = [
                (made.float() - exact).abs().mean() for made in (run_block_for_class_token(whole, tokens()), whole(tokens())[:, :1])
            ]
    assert 0 < off[0] < 1.5 * off[1]


def test_a_block_of_another_kind_runs_itself(multiplied: list[int]) -> None:
    custom, sequence_first = block("custom blocks"), block("plain")
    sequence_first.attn.batch_first = False
    with torch.no_grad():
        for whole in (custom, sequence_first):
            assert not is_standard_block(whole)
            assert torch.equal(run_block(whole, tokens()), whole(tokens()))
    assert multiplied == []


def test_products_in_half_precision_leave_the_stream_whole(multiplied: list[int]) -> None:
    """As `torch.nn` has it where attention and perceptron are bfloat16 and what the norms give is made so."""
    whole = block("plain")
    with torch.no_grad():
        exact = run_block_for_class_token(whole, tokens())
        multiplied.clear()
        for norm, products in ((whole.ln_1, whole.attn), (whole.ln_2, whole.mlp)):
            products.to(torch.bfloat16)
            norm.register_forward_hook(lambda *given: given[-1].to(torch.bfloat16))
        coarse = run_block_for_class_token(whole, tokens())
        assert torch.equal(run_block(whole, tokens()), whole(tokens()))
    assert coarse.dtype == torch.float32
    assert 0 < (coarse - exact).abs().mean() < 1.5 * (whole(tokens())[:, :1] - exact).abs().mean()
    assert multiplied == []
