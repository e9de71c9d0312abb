"""Contrastive pre-training of a small CLIP on image-caption pairs (Radford et al. 2021): symmetric cross-entropy over a batch.

Captions of chest X-rays repeat ("no acute cardiopulmonary process"): two rows with the same caption would be pushed apart although
they match. Rows with identical captions therefore count as positives of each other.

A few thousand images are few for a vision transformer from random weights. Three measures help, with no data beyond images and
captions: the patch embedding starts as whitened principal components of image patches, the positional embedding as sines and
cosines of the two coordinates, and a second loss predicts the words of the caption (Joulin et al., ECCV 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.encoder.architecture import VOCABULARY, Architecture
from models.encoder.encoder import Encoder
from models.images.preprocess import Preprocess

MAX_LOGIT_SCALE = math.log(100)
"""Upper limit of the trained logit scale, as in CLIP."""
_PATCH_SAMPLE = 800  # images whose patches are sampled
_SOFTENED_COMPONENT = 60  # principal component from which whitening is softened: later ones are noise
_MIN_WORD_RATE = 400  # words in fewer than one of this many captions are not predicted
_WORDS_PER_CAPTION = 12.0  # scales the mean over words to the size of the contrastive loss


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveRecipe:
    """Hyperparameters of the pre-training."""

    epochs: int = 14
    batch: int = 64
    learning_rate: float = 1e-3  # AdamW's, of embeddings, projections, gains and biases
    matrix_rate: float = 2e-3  # Muon's, of the matrices of the blocks
    weight_decay: float = 0.05
    warm_up: float = 0.08  # share of the steps
    clip: float = 1.0  # norm of the gradient
    words: float = 2.0  # weight of the word loss; the contrastive loss weighs 1
    shift: int = 6  # pixels, either way, in each direction
    gain: float = 0.15  # brightness and contrast, either way
    bfloat16: bool = True  # autocast of the products; weights and loss stay float32

    @property
    def card(self) -> dict[str, Any]:
        """Return the hyperparameters as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PretrainingStep:
    """Progress of the training after a step."""

    number: int
    total: int
    loss: float


def pretrain(
    architecture: Architecture,
    preprocess: Preprocess,
    model_inputs: npt.NDArray[np.float16],
    captions: Callable[[int], Sequence[str]],
    *,
    recipe: ContrastiveRecipe,
    seed: int,
    device: torch.device,
    on_step: Callable[[PretrainingStep], None] = lambda _step: None,
) -> Encoder:
    """Train a network from random weights and return it, in evaluation mode on the CPU.

    `model_inputs`: [N, S, S] in 0..1, as from `Preprocess.square`. `captions`: epoch -> N texts. Same seed, device and threads:
    same weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder = Encoder(architecture, architecture.build(seed=seed))
        sample = torch.from_numpy(model_inputs[:: max(1, len(model_inputs) // _PATCH_SAMPLE)]).float()[:, None]
        initialise_image_tower(encoder.network, preprocess.normalise(sample))
        words = _CaptionWordClassifier(encoder, captions(0)).to(device)
        encoder.network.to(device).train().requires_grad_(True)
        trainer = _ContrastiveTrainer(encoder, words, recipe, steps=recipe.epochs * (len(model_inputs) // recipe.batch))
        chance = np.random.default_rng([seed, 1])
        for rows, texts in _draw_batches(len(model_inputs), captions, recipe, chance):
            pixels = preprocess.normalise(_jitter_images(torch.from_numpy(model_inputs[rows]).float()[:, None], recipe, chance))
            on_step(trainer.step(pixels.to(device), texts))
    encoder.network.eval().requires_grad_(False)
    return encoder.to(torch.device("cpu"))


class _ContrastiveTrainer:
    """Network, optimisers and learning rate schedules, one step at a time."""

    def __init__(self, encoder: Encoder, words: _CaptionWordClassifier, recipe: ContrastiveRecipe, *, steps: int) -> None:
        self._encoder, self._words, self._recipe, self._steps, self._done = encoder, words, recipe, steps, 0
        self._parameters = [*encoder.network.parameters(), *words.parameters()]
        self._optimisers = _make_optimisers(encoder.network, words, recipe)
        self._schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _compute_rate_factor((step + 1) / steps, recipe.warm_up))
            for optimiser in self._optimisers
        ]

    def step(self, pixels: torch.Tensor, texts: list[str]) -> PretrainingStep:
        loss = _compute_loss(self._encoder, self._words, pixels, texts, self._recipe)
        for optimiser in self._optimisers:
            optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip)
        for optimiser in self._optimisers:
            optimiser.step()
        for schedule in self._schedules:
            schedule.step()
        self._encoder.network.get_parameter("logit_scale").data.clamp_(0, MAX_LOGIT_SCALE)
        self._done += 1
        return PretrainingStep(self._done, self._steps, float(loss.detach()))


def initialise_image_tower(network: torch.nn.Module, pixels: torch.Tensor) -> None:
    """Initialise the image tower of an open_clip ViT from patch statistics and positions. `pixels`: [N, 3, S, S], normalised.

    The first layer becomes a random rotation of the whitened principal components of grey patches; the positional embedding becomes
    sines and cosines of row and column. Random draws come from torch's generator.
    """
    tower: Any = network.visual
    patch, width = tower.conv1.kernel_size[0], tower.conv1.out_channels
    patches = functional.unfold(pixels[:, :1], patch, stride=patch).transpose(1, 2).reshape(-1, patch * patch)
    variance, axes = (part.flip(-1) for part in torch.linalg.eigh(torch.cov(patches.T)))
    components = min(width, patch * patch)
    spread = variance[:components].clamp_min(0).sqrt()
    whitened = axes[:, :components].T / (spread + spread[min(_SOFTENED_COMPONENT, components - 1)])[:, None]
    rotation = torch.linalg.qr(torch.randn(width, components))[0] if width >= components else torch.eye(width, components)
    weight = (rotation @ whitened).reshape(width, 1, patch, patch) / 3  # three equal channels
    tower.conv1.weight.data.copy_(weight.expand(-1, 3, -1, -1))
    tower.positional_embedding.data[1:] = 0.5 * _encode_positions(tower.grid_size[0], width)


def _encode_positions(edge: int, width: int) -> torch.Tensor:
    """Return [edge * edge, width]: sines and cosines of row and column at geometrically spaced wavelengths."""
    frequency = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    rows, columns = (axis.reshape(-1, 1) * frequency for axis in torch.meshgrid(*[torch.arange(float(edge))] * 2, indexing="ij"))
    return torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=1)


class _CaptionWordClassifier(torch.nn.Linear):
    """Predicts the words of a caption from the image vector. Used during training only."""

    def __init__(self, encoder: Encoder, texts: Sequence[str]) -> None:
        counts = torch.bincount(encoder.tokens(texts).flatten(), minlength=VOCABULARY)
        frequent = counts >= max(2, len(texts) // _MIN_WORD_RATE)
        frequent[[0, VOCABULARY - 2, VOCABULARY - 1]] = False  # padding, start and end
        super().__init__(int(encoder.architecture.config["embed_dim"]), int(frequent.sum()))
        self._frequent = frequent

    def loss(self, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the binary cross-entropy for image vectors [N, D] and tokens [N, L]: the mean over words, scaled."""
        present = torch.zeros(len(tokens), VOCABULARY).scatter_(1, tokens.cpu(), 1.0)[:, self._frequent].to(images.device)
        return functional.binary_cross_entropy_with_logits(self(images), present) * _WORDS_PER_CAPTION


def _make_optimisers(
    network: torch.nn.Module, words: _CaptionWordClassifier, recipe: ContrastiveRecipe
) -> list[torch.optim.Optimizer]:
    """Return Muon (Jordan et al. 2024) for the matrices of the blocks and AdamW for the rest; no weight decay of gains and biases.

    Muon reaches with 35,000 images the quality that AdamW alone reaches with more than 50,000.
    """
    inner = [parameter for name, parameter in network.named_parameters() if "resblocks" in name and parameter.ndim == 2]
    known = {id(parameter) for parameter in inner}
    outer = [parameter for parameter in (*network.parameters(), *words.parameters()) if id(parameter) not in known]
    groups = [
        {"params": [parameter for parameter in outer if parameter.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [parameter for parameter in outer if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(inner, lr=recipe.matrix_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-6),
    ]


def _compute_rate_factor(progress: float, warm_up: float) -> float:
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def _draw_batches(
    count: int, captions: Callable[[int], Sequence[str]], recipe: ContrastiveRecipe, chance: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.intp], list[str]]]:
    for epoch in range(recipe.epochs):
        texts, order = captions(epoch), chance.permutation(count)
        for start in range(0, count - recipe.batch + 1, recipe.batch):
            rows = order[start : start + recipe.batch]
            yield rows, [texts[row] for row in rows]


def _jitter_images(images: torch.Tensor, recipe: ContrastiveRecipe, chance: np.random.Generator) -> torch.Tensor:
    """Shift each image and change its brightness and contrast. Never mirrored: the heart lies on the left."""
    n, size = len(images), images.shape[-1]
    down, right = (torch.from_numpy(chance.integers(0, 2 * recipe.shift + 1, n)) for _ in range(2))
    padded = functional.pad(images, [recipe.shift] * 4)
    edge = torch.arange(size)
    shifted = padded[torch.arange(n)[:, None, None], 0, (down[:, None] + edge)[:, :, None], (right[:, None] + edge)[:, None, :]][
        :, None
    ]
    gain, offset = (
        torch.from_numpy(chance.uniform(-recipe.gain, recipe.gain, n).astype(np.float32))[:, None, None, None] for _ in range(2)
    )
    return ((shifted - 0.5) * (1 + gain) + 0.5 + offset).clamp(0, 1)


def _compute_loss(
    encoder: Encoder, words: _CaptionWordClassifier, pixels: torch.Tensor, texts: list[str], recipe: ContrastiveRecipe
) -> torch.Tensor:
    network: Any = encoder.network
    tokens = encoder.tokens(texts)
    # Plain attention: on a CPU in bfloat16 the backward pass of fused attention takes as long as the rest of the network.
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=recipe.bfloat16), sdpa_kernel(SDPBackend.MATH):
        images = network.encode_image(pixels).float()
        phrases = network.encode_text(tokens).float()
    logits = network.logit_scale.exp() * functional.normalize(images, dim=-1) @ functional.normalize(phrases, dim=-1).T
    partners = _match_captions(texts).to(logits.device)
    contrast = (_compute_cross_entropy(logits, partners) + _compute_cross_entropy(logits.T, partners)) / 2
    return contrast + recipe.words * words.loss(images, tokens)


def _match_captions(texts: list[str]) -> torch.Tensor:
    """Return [N, N], rows summing to 1: the matching pairs of images and captions."""
    _, group = np.unique(np.array(texts), return_inverse=True)
    same = torch.from_numpy(group[:, None] == group[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


def _compute_cross_entropy(logits: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    return -(partners * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()
