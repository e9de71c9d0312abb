"""The CLIP encoder: images and texts to unit vectors. Weights come from `weights.py`, networks from `architecture.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import open_clip
import torch

from models.encoder.architecture import Architecture
from models.encoder.weights import StateDict, assign_weights
from models.errors import CheckpointIncompatible

_TEXT_BATCH = 32


class Encoder:
    """A network with weights, in evaluation mode, on one device. `precision`: of the matrix products in its image blocks."""

    def __init__(self, architecture: Architecture, network: torch.nn.Module) -> None:
        self.architecture = architecture
        self.network = network
        self.precision = torch.float32
        self._tokenizer = open_clip.SimpleTokenizer(
            context_length=architecture.context_length, **(architecture.config["text_cfg"].get("tokenizer_kwargs") or {})
        )

    @classmethod
    def with_weights(cls, architecture: Architecture, state: StateDict) -> Encoder:
        """Build the network and load these weights. CheckpointIncompatible where they do not fit the network."""
        network = architecture.build(seed=None)
        assign_weights(network, state)
        return cls(architecture, network)

    @classmethod
    def untrained(cls, architecture: Architecture, *, seed: int) -> Encoder:
        """Return an encoder of random weights, for tests and demonstrations only. Same seed, same weights."""
        return cls(architecture, architecture.build(seed=seed))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.network.parameters()).device

    @property
    def temperature(self) -> float:
        """Trained factor on cosines (CLIP's exp(logit_scale); 100 for OpenAI's weights)."""
        return float(self.network.get_parameter("logit_scale").exp().max())

    def to(self, device: torch.device) -> Encoder:
        """Move the weights and return self."""
        self.network.to(device)
        return self

    @torch.inference_mode()
    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return float32 [N, D] of unit length for preprocessed float32 [N, 3, S, S], on the encoder's device."""
        encode: Any = self.network.encode_image
        return self._require_finite(encode(pixels.to(self.device), normalize=True))

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return float32 [N, D] of unit length, on the encoder's device. Texts beyond the context length are truncated."""
        encode: Any = self.network.encode_text
        with _shorten_context(self.tokens(texts), self.network) as shortened:
            return self._require_finite(torch.cat([encode(batch, normalize=True) for batch in torch.split(shortened, _TEXT_BATCH)]))

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Return int64 [N, context length] on the encoder's device. Texts beyond the context length are truncated."""
        tokens: torch.Tensor = self._tokenizer(list(texts))
        return tokens.to(self.device)

    def _require_finite(self, features: torch.Tensor) -> torch.Tensor:
        """Refuse NaN, which compares false with every threshold and so would pass for a low score."""
        if not torch.isfinite(features).all():
            raise CheckpointIncompatible("the encoder gives values that are not finite", hint="import sound weights")
        return features


@contextmanager
def _shorten_context(tokens: torch.Tensor, network: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Shorten the text tower's context to the longest text; yield the tokens [N, L] of that length.

    CLIP's text tower is causal and pools at the end token: padding after it costs two thirds of the time and changes nothing.
    Networks whose result depends on the padding are not changed.
    """
    mask = getattr(network, "attn_mask", None)
    if type(network) is not open_clip.CLIP or mask is None or network.text_pool_type != "argmax":
        yield tokens
        return
    position = network.get_parameter("positional_embedding")
    length = int(tokens.argmax(dim=-1).max()) + 1  # the end token has the highest number
    network.positional_embedding = torch.nn.Parameter(position[:length], requires_grad=False)
    network.attn_mask = mask[:length, :length]
    try:
        yield tokens[:, :length]
    finally:
        network.positional_embedding, network.attn_mask = position, mask
