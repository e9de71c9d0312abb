"""Stored films -> what learning needs of them: from the prefix store what is there, from the pixels the rest, which is then kept.

Either way the activations are rounded to half precision, and features are those of the pixels, so what is learnt does not depend
on which way they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import structlog
import torch

from adapters.ml.activation_cache import Kept, key_of
from adapters.ml.error_translation import in_the_pipelines_words
from models.encoder.activations import Cut, cut, encoded
from models.encoder.base import Base
from models.encoder.encoder import Encoder
from models.encoder.partition import partition
from models.errors import CannotPartition
from models.images.views import Views
from models.training.fine_tuning import STORED
from models.training.recipe import Augmentation
from pipeline.domain import StoredInstance
from pipeline.errors import PixelsUnreadable
from pipeline.ports.images import ImageReader
from pipeline.ports.outside import Watch

_FILMS = 64  # at a time
_COPIES = 32  # at a time through the frozen blocks: between two of them learning may be told to wait
_ALONE = Views(Augmentation(views=1), seed=0)

_log = structlog.get_logger("radclipd.gpu")


class FilmReader:
    """Films as the encoder of one base sees them. `k`: in front of how many last blocks it is cut.

    `cut` is k, or None where the tower cannot be cut there. `front` is the base's encoder as it serves: what it gives in front of
    the cut is what `kept` keeps.
    """

    def __init__(self, base: Base, pixels: ImageReader, kept: Kept, *, k: int, front: Encoder | None = None) -> None:
        self._base, self._pixels, self._kept = base, pixels, kept
        self._front = front or base.encoder
        try:
            partition(base.encoder.network).last(k)
        except CannotPartition:
            self.cut: int | None = None
        else:
            self.cut = k

    def copies(self, films: Sequence[StoredInstance], views: Views, watch: Watch) -> list[Cut | None]:
        """Return activations float16 [V, L, W] and features float32 [V, D] on the CPU of each labelled film's copies, None where it
        cannot be read. Only of a tower with a cut."""
        progress = _Progress(watch, "labelled films", len(films))
        return [found for some in _parts(films) for found in self._copies(some, views, progress, labelled=True)]

    def features(self, films: Sequence[StoredInstance], what: str, watch: Watch) -> list[torch.Tensor | None]:
        """Return the base's unit vector float32 [D] on the CPU of each film, None where it cannot be read."""
        progress = _Progress(watch, what, len(films))
        if self.cut is None:
            return [row for some in _parts(films) for row in self._encoded(self._squares(some, progress))]
        copies = (found for some in _parts(films) for found in self._copies(some, _ALONE, progress, labelled=False))
        return [None if found is None else found.features[0] for found in copies]

    def square(self, film: StoredInstance) -> torch.Tensor | None:
        """Return its grey square [1, S, S], None where it cannot be read."""
        try:
            with in_the_pipelines_words():
                return self._base.preprocess.square(self._pixels.read(film))
        except PixelsUnreadable as error:
            _log.warning("film left out of learning", error=str(error))
            return None

    def _made_of(self, squares: torch.Tensor) -> Cut:
        """Return what the base makes of grey squares [n, 1, S, S], on the CPU, the activations float16."""
        assert self.cut is not None
        made = cut(self._front, self._base.preprocess.normalised(squares), k=self.cut)
        return Cut(made.entering.to("cpu", STORED), made.features.cpu())

    def _copies(self, films: Sequence[StoredInstance], views: Views, progress: _Progress, *, labelled: bool) -> list[Cut | None]:
        names = [views.names(key_of(film)) for film in films]
        found = self._kept.read([name for own in names for name in own])
        lacking = [film for film, own in zip(films, names, strict=True) if any(name not in found for name in own)]
        progress.on(len(films) - len(lacking))
        squares = self._squares(lacking, progress)
        read = [(film, square) for film, square in zip(lacking, squares, strict=True) if square is not None]
        found |= self._made(read, views, found, progress, labelled=labelled)
        return [Cut.of(found[name] for name in own) if all(name in found for name in own) else None for own in names]

    def _squares(self, films: Sequence[StoredInstance], progress: _Progress) -> list[torch.Tensor | None]:
        found = []
        for film in films:
            found.append(self.square(film))
            progress.on(1)
        return found

    def _made(
        self,
        films: Sequence[tuple[StoredInstance, torch.Tensor]],
        views: Views,
        known: Mapping[str, Cut],
        progress: _Progress,
        *,
        labelled: bool,
    ) -> dict[str, Cut]:
        """Make the copies that are not known and keep them: those of labelled films always, others where there is room."""
        wanted = [
            (film, square, number, name)
            for film, square in films
            for number, name in enumerate(views.names(key_of(film)))
            if name not in known
        ]
        made: dict[str, Cut] = {}
        for start in range(0, len(wanted), _COPIES):
            some = wanted[start : start + _COPIES]
            images = self._made_of(torch.stack([views.copy(square, key_of(film), number) for film, square, number, _ in some]))
            made |= {name: row for (_, _, _, name), row in zip(some, map(Cut, *images), strict=True)}
            keep = [row for row, (film, *_) in enumerate(some) if labelled or self._kept.admits(film)]
            self._kept.write([some[row][3] for row in keep], images.rows(keep))
            progress.on(0)
        return made

    def _encoded(self, squares: Sequence[torch.Tensor | None]) -> Iterator[torch.Tensor | None]:
        there = [square for square in squares if square is not None]
        pixels = self._base.preprocess.normalised(torch.stack(there)) if there else None
        rows = iter(encoded(self._base.encoder, pixels).cpu().clone() if pixels is not None else ())
        for square in squares:
            yield None if square is None else next(rows)


class _Progress:
    """How many of the films are done, told to a watch, which may wait or raise."""

    def __init__(self, watch: Watch, what: str, films: int) -> None:
        self._watch, self._what, self._films, self._done = watch, what, films, 0

    def on(self, films: int) -> None:
        """So many more are done; 0: still here."""
        self._done += films
        self._watch(self._what, self._done, self._films)


def _parts(films: Sequence[StoredInstance]) -> Iterator[Sequence[StoredInstance]]:
    for start in range(0, len(films), _FILMS):
        yield films[start : start + _FILMS]
