"""Thumbnails of images and their distances from the archive."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from sqlalchemy import Connection, bindparam, insert, select, update

from adapters.catalog.parameters import build_insert, chunks
from adapters.catalog.tables import image_references, image_thumbnails, instances
from pipeline.thumbnails import THUMBNAIL_SIDE, ImageReference


class SqlThumbnails:
    """`ports.studies.Thumbnails`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, thumbnails: Mapping[str, bytes]) -> None:
        numbers = self._find_instance_numbers(thumbnails)
        rows = [{"instance": numbers[uid], "pixels": pixels} for uid, pixels in thumbnails.items()]
        if rows:
            statement = build_insert(image_thumbnails, self._connection.dialect.name).on_conflict_do_nothing()
            self._connection.execute(statement, rows)

    def newest(self, *, limit: int) -> list[bytes]:
        query = select(image_thumbnails.c.pixels).order_by(image_thumbnails.c.instance.desc()).limit(limit)
        return [bytes(pixels) for pixels in self._connection.scalars(query)]

    def reference(self) -> ImageReference | None:
        found = self._connection.execute(select(image_references.c.pixels, image_references.c.distance_limit)).first()
        if found is None:
            return None
        return ImageReference(np.frombuffer(found.pixels, np.uint8).reshape(-1, THUMBNAIL_SIDE**2), found.distance_limit)

    def add_reference(self, reference: ImageReference) -> None:
        row = {"number": 1, "pixels": reference.thumbnails.tobytes(), "distance_limit": reference.limit}
        self._connection.execute(insert(image_references), row)

    def unmeasured(self, *, limit: int) -> dict[str, bytes]:
        query = (
            select(instances.c.sop_instance_uid, image_thumbnails.c.pixels)
            .join(instances, image_thumbnails.c.instance == instances.c.id)
            .where(image_thumbnails.c.distance.is_(None))
        )
        rows = self._connection.execute(query.order_by(image_thumbnails.c.instance.desc()).limit(limit))
        return {uid: bytes(pixels) for uid, pixels in rows}

    def put_distances(self, distances: Mapping[str, float]) -> None:
        numbers = self._find_instance_numbers(distances)
        rows = [{"of": numbers[uid], "measured": distance} for uid, distance in distances.items()]
        if rows:
            statement = update(image_thumbnails).where(image_thumbnails.c.instance == bindparam("of"))
            self._connection.execute(statement.values(distance=bindparam("measured")), rows)

    def unusable_among(self, sop_instance_uids: Collection[str]) -> set[str]:
        unusable = (
            select(instances.c.sop_instance_uid)
            .join(image_thumbnails, image_thumbnails.c.instance == instances.c.id)
            .where(image_thumbnails.c.distance > 1)
        )
        queries = (unusable.where(instances.c.sop_instance_uid.in_(some)) for some in chunks(sop_instance_uids))
        return {uid for query in queries for uid in self._connection.scalars(query)}

    def _find_instance_numbers(self, sop_instance_uids: Collection[str]) -> dict[str, int]:
        query = select(instances.c.sop_instance_uid, instances.c.id)
        queries = (query.where(instances.c.sop_instance_uid.in_(some)) for some in chunks(sop_instance_uids))
        return {uid: number for one in queries for uid, number in self._connection.execute(one)}
