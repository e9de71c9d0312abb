"""Thumbnails of images and their distances on every catalog."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.catalog.catalog import SqlCatalog
from pipeline.ports.services import Catalog
from pipeline.thumbnails import THUMBNAIL_SIDE, ImageReference
from tests.builders.catalog_rows import add_instance, chest_header
from tests.builders.sql import rows

AREA = THUMBNAIL_SIDE**2


def fill(catalog: Catalog) -> None:
    for number in (1, 2, 3):
        add_instance(catalog, chest_header(study=f"1.{number}", sop=f"1.{number}.1"))
    with catalog.begin() as tx:
        tx.thumbnails.add({f"1.{number}.1": bytes([number]) * AREA for number in (1, 2, 3)})


def test_thumbnails_are_stored_once_and_measured(catalog: Catalog) -> None:
    fill(catalog)
    with catalog.begin() as tx:
        tx.thumbnails.add({"1.1.1": bytes([9]) * AREA})  # scored again: the thumbnail stays
        tx.thumbnails.add({})
        assert tx.thumbnails.newest(limit=2) == [bytes([3]) * AREA, bytes([2]) * AREA]
        assert tx.thumbnails.unmeasured(limit=9) == {f"1.{number}.1": bytes([number]) * AREA for number in (3, 2, 1)}
        tx.thumbnails.put_distances({"1.1.1": 0.5, "1.3.1": 1.5})
    with catalog.read() as tx:
        assert list(tx.thumbnails.unmeasured(limit=9)) == ["1.2.1"]
        assert tx.thumbnails.unusable_among(["1.1.1", "1.2.1", "1.3.1", "9"]) == {"1.3.1"}


def test_the_reference_is_stored_once(catalog: Catalog) -> None:
    made = ImageReference(np.arange(2 * AREA, dtype=np.uint32).astype(np.uint8).reshape(2, AREA), 0.25)
    with catalog.begin() as tx:
        assert tx.thumbnails.reference() is None
        tx.thumbnails.add_reference(made)
    with catalog.read() as tx:
        stored = tx.thumbnails.reference()
    assert stored is not None
    assert stored.limit == 0.25
    assert np.array_equal(stored.thumbnails, made.thumbnails)
    with pytest.raises(Exception, match=r"(?i)catalog|constraint|violates|unique"), catalog.begin() as tx:
        tx.thumbnails.add_reference(made)


def test_the_view_flags_unusable_images(sql_catalog: SqlCatalog, catalog_url: str) -> None:
    fill(sql_catalog)
    with sql_catalog.begin() as tx:
        tx.thumbnails.put_distances({"1.1.1": 0.5, "1.3.1": 1.5})
    found = rows(catalog_url, "SELECT sop_instance_uid, distance, unusable FROM v_instances ORDER BY sop_instance_uid")
    assert found == [("1.1.1", 0.5, 0), ("1.2.1", None, None), ("1.3.1", 1.5, 1)]
