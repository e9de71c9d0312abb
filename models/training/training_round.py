"""A round of learning: both ways tried on patients that they have not seen, the better one made of all films, and calibrated.

Way 1 is a text-anchored head on the frozen encoder (`stage_one`), way 2 the last k blocks unfrozen under the head that way 1 gives
of the same films (`fit`; LP-FT, Kumar et al. 2022). Both start from the base, never from what was learnt before.

Models of different folds differ in how far their logits spread, so a film held out of one cannot be ranked against a film held out
of another as they are: pooled like that, they look worse than any of them is (Parker et al. 2007). Each is levelled on the same
films, those that are labelled, whose labels have no say in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit, logit

from models.classifier.head import LinearHead
from models.classifier.version_weights import Moved
from models.encoder.activations import from_prefix, shape
from models.encoder.delta import Delta, adapted
from models.encoder.encoder import Encoder
from models.encoder.partition import partition
from models.errors import CannotPartition, NothingToLearn
from models.images.views import Views
from models.training.calibration import Calibration, Floats, Labels, calibration, log_loss, prevalences
from models.training.cross_validation import Rows, cross_fitted, folds, learnable, measurable, out_of_fold, sides
from models.training.fine_tuning import STORED, Trained
from models.training.fold_fits import Fits, Fitting, Made, Order, one_by_one
from models.training.optimiser_loop import in_chunks
from models.training.recipe import Recipe
from models.training.stage_one import Weighing, stage_one_head
from models.training.whitening import Whitening

Method = Literal["auto", "stage-1", "partial"]
Watch = Callable[[str, int, int], None]
"""Hears what is under way, how much of it is done, and how much there is. May wait, or raise to stop."""

STAGE_1, PARTIAL = "stage-1", "partial"
MOST_ACTIVATIONS = 2 << 30
"""Bytes of activations that are held: with more films, fewer augmented copies of each."""


@dataclass(frozen=True)
class Plan:
    """How to learn. `folds`: at most so many; `seed`: of everything that is drawn."""

    method: Method = "auto"
    recipe: Recipe = field(default_factory=Recipe)
    stage_1: Weighing = field(default_factory=Weighing)
    folds: int = 5
    seed: int = 0

    @property
    def card(self) -> dict[str, Any]:
        """Return every number, JSON-able."""
        return {
            "method": self.method,
            "folds": self.folds,
            "seed": self.seed,
            "partial": self.recipe.card,
            "stage-1": asdict(self.stage_1),
        }

    def views(self, encoder: Encoder, films: int) -> Views:
        """Return the copies of each of so many films: as many as planned and can be held, and of a frozen encoder one."""
        amounts = self.recipe.augmentation
        room = 1
        if self.method != STAGE_1:
            length, width = shape(encoder)
            room = MOST_ACTIVATIONS // (max(1, films) * length * width * STORED.itemsize)
        return Views(replace(amounts, views=max(1, min(amounts.views, room))), self.seed)


@dataclass(frozen=True)
class Films:
    """n labelled films, with labels int8 [n, F] and whose they are [n].

    `features`: float32 [n, D], what the base makes of each. `activations`: float16 [n, V, L, W], what enters the last blocks that
    the plan unfreezes for V copies of each, the film itself first; None where the tower cannot be partitioned. `background`:
    float32 [N, D], what the base makes of films of the archive. All on the CPU.
    """

    features: torch.Tensor
    activations: torch.Tensor | None
    labels: Labels
    patients: npt.NDArray[np.str_]
    background: torch.Tensor


@dataclass(frozen=True)
class Tried:
    """One way: log-odds [n, F] at even odds of films that it had not seen (NaN: not learnt), and their mean log-loss."""

    odds: Floats
    calibration: Calibration
    loss: float


@dataclass(frozen=True)
class Taught:
    """What was learnt. `head` scores on the frozen encoder, `moved` is there where unfreezing won; both give probabilities.

    `scores`: float64 [n, F], of each film by models that had not seen its patient. `prevalence` [F] of the archive is the
    probability at which the even odds lie. `tried`: each way by name. `notes` say what was not tried and why.
    """

    method: str
    findings: npt.NDArray[np.bool_]
    head: LinearHead
    moved: Moved | None
    scores: Floats
    prevalence: Floats
    tried: Mapping[str, Tried]
    folds: int
    training: Mapping[str, Any]
    notes: tuple[str, ...]


def teach(encoder: Encoder, text: LinearHead, films: Films, plan: Plan, watch: Watch, fits: Fits = one_by_one) -> Taught:
    """Learn every finding with both kinds of films. `encoder`: the base, `text`: its zero-shot head.

    `fits` makes the fits of the last blocks. The same arguments give the same weights on the same devices and number of threads.
    NothingToLearn; CannotPartition where the plan insists on unfreezing a tower that cannot be.
    """
    if not learnable(films.labels).any():
        raise NothingToLearn("no finding is labelled both present and absent", hint="label films with a finding, and films without")
    return _Round(encoder, text, films, plan, watch, fits).taught()


class _Round:
    """What the two ways share."""

    def __init__(self, encoder: Encoder, text: LinearHead, films: Films, plan: Plan, watch: Watch, fits: Fits) -> None:
        self._encoder, self._text, self._films, self._plan, self._watch = encoder, text.to(torch.device("cpu")), films, plan, watch
        self._fold = folds(films.patients, films.labels, most=plan.folds, seed=plan.seed)
        self._learning = [others for others, _ in sides(self._fold) if learnable(films.labels[others]).any()]
        self._every = np.arange(len(self._fold))
        self._fits, self._stepped = fits, 0

    def taught(self) -> Taught:
        tried = {STAGE_1: self._tried(self._score_stage_1)}
        notes: tuple[str, ...] = ()
        if self._plan.method != STAGE_1:
            try:
                tried[PARTIAL] = self._tried(partial(self._score_partial, self._made(self._learning)))
            except CannotPartition as error:
                if self._plan.method == PARTIAL:
                    raise
                notes = (f"partial unfreezing was not tried: {error}",)
        chosen = self._plan.method if self._plan.method != "auto" else min(tried, key=lambda name: tried[name].loss)
        frozen = self._stage_1(self._every)
        prevalence = self._prevalence(frozen, tried[STAGE_1].calibration)
        fitted = next(self._made([self._every])) if chosen == PARTIAL else None
        findings = learnable(self._films.labels)
        return Taught(
            method=chosen,
            findings=findings,
            head=tried[STAGE_1].calibration.folded(frozen, prevalence),
            moved=self._moved(fitted.trained, tried[PARTIAL].calibration, prevalence, findings) if fitted else None,
            scores=np.asarray(expit(tried[chosen].odds + logit(prevalence))),
            prevalence=prevalence,
            tried=tried,
            folds=int(self._fold.max()) + 1,
            training=fitted.card if fitted else {},
            notes=notes,
        )

    def _tried(self, score: Callable[[Rows, Rows], Floats]) -> Tried:
        logits = out_of_fold(self._fold, self._films.labels.shape[1], score)
        labels = measurable(logits, self._films.labels)
        odds = cross_fitted(logits, labels, self._fold)
        return Tried(odds, calibration(logits, labels), log_loss(odds, labels))

    # stage 1: a head on the frozen encoder

    @cached_property
    def _whitening(self) -> Whitening:
        return Whitening.of(torch.cat([self._films.background, self._films.features]))

    def _stage_1(self, rows: Rows) -> LinearHead:
        labels = self._films.labels[rows]
        features = self._films.features
        head = stage_one_head(features[torch.from_numpy(rows)], labels, self._text, self._whitening, self._plan.stage_1)
        return head.levelled(features)

    def _score_stage_1(self, rows: Rows, held_out: Rows) -> Floats:
        logits = self._stage_1(rows).logits(self._films.features[torch.from_numpy(held_out)]).numpy().astype(np.float64)
        return np.where(learnable(self._films.labels[rows]), logits, np.nan)

    def _prevalence(self, head: LinearHead, calibrated: Calibration) -> Floats:
        """Of the archive; without an archive to look at, of the labelled films as if they were one."""
        archive = self._films.background if len(self._films.background) else self._films.features
        return prevalences(calibrated(head.logits(archive).numpy().astype(np.float64)))

    # stage 2: the last k blocks

    @cached_property
    def _activations(self) -> torch.Tensor:
        """[n, V, L, W] on the CPU. CannotPartition."""
        partition(self._encoder.network).last(self._plan.recipe.k)
        if self._films.activations is None:
            raise ValueError("the films of a tower that can be partitioned come with their activations")
        return self._films.activations

    def _made(self, wanted: Sequence[Rows]) -> Iterator[Made]:
        """Fit to each of these rows of the films, in order. CannotPartition."""
        common = Fitting(self._encoder, self._activations, self._films.labels, self._plan.recipe, self._plan.seed)
        orders = [Order(rows, self._stage_1(rows), self._steps(rows)) for rows in wanted]
        before, total = self._stepped, sum(map(self._steps, [*self._learning, self._every]))
        self._stepped += sum(order.steps for order in orders)
        return self._fits(common, orders, lambda done: self._watch("unfreezing", before + done, total))

    def _steps(self, rows: Rows) -> int:
        labels = self._films.labels[rows]
        return self._plan.recipe.steps(int(np.median((labels == 1).sum(axis=0)[learnable(labels)])))

    def _score_partial(self, made: Iterator[Made], rows: Rows, held_out: Rows) -> Floats:
        """`made`: of each fold in which anything can be learnt."""
        findings = learnable(self._films.labels[rows])
        if not findings.any():
            return np.full((len(held_out), len(findings)), np.nan)
        learnt = next(made).trained
        features = self._unfrozen(learnt.delta)
        logits = learnt.head.levelled(features).logits(features[torch.from_numpy(held_out)])
        return np.where(findings, logits.numpy().astype(np.float64), np.nan)

    def _unfrozen(self, delta: Delta) -> torch.Tensor:
        """[n, D] on the CPU: what the encoder makes of the films with these tensors in it."""
        encoder, films = adapted(self._encoder, delta), self._activations[:, 0]
        return in_chunks(lambda some: from_prefix(encoder, some, k=self._plan.recipe.k).features, films, encoder.device).cpu()

    def _moved(self, fitted: Trained, calibrated: Calibration, prevalence: Floats, findings: npt.NDArray[np.bool_]) -> Moved:
        levelled = fitted.head.levelled(self._unfrozen(fitted.delta))
        head = calibrated.folded(levelled, prevalence)
        return Moved(self._plan.recipe.k, fitted.delta, head, torch.from_numpy(findings))
