"""Fake of ports.Thumbnails."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pipeline.ports.studies import Thumbnails
from pipeline.thumbnails import ImageReference
from tests.builders.fakes.rows import CatalogTables


class FakeThumbnails:
    def __init__(self, tables: CatalogTables) -> None:
        self._t = tables

    def add(self, thumbnails: Mapping[str, bytes]) -> None:
        for uid, pixels in thumbnails.items():
            self._t.thumbnails.setdefault(uid, (pixels, None))

    def newest(self, *, limit: int) -> list[bytes]:
        return [pixels for pixels, _ in reversed(self._t.thumbnails.values())][:limit]

    def reference(self) -> ImageReference | None:
        return self._t.image_reference

    def add_reference(self, reference: ImageReference) -> None:
        if self._t.image_reference is not None:
            raise ValueError("unique: there is one reference")
        self._t.image_reference = reference

    def unmeasured(self, *, limit: int) -> dict[str, bytes]:
        found = [(uid, pixels) for uid, (pixels, distance) in self._t.thumbnails.items() if distance is None]
        return dict(found[::-1][:limit])

    def put_distances(self, distances: Mapping[str, float]) -> None:
        for uid, distance in distances.items():
            self._t.thumbnails[uid] = (self._t.thumbnails[uid][0], distance)

    def unusable_among(self, sop_instance_uids: Collection[str]) -> set[str]:
        rows = self._t.thumbnails
        return {uid for uid in sop_instance_uids if uid in rows and (rows[uid][1] or 0.0) > 1}


# The type checker holds each fake against its port.
def _thumbnails(fake: FakeThumbnails) -> Thumbnails:
    return fake
