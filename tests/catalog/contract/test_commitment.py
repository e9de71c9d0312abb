"""What is committed to a sender: a row, a file, and the SOP class that the sender names."""

from __future__ import annotations

from pipeline import rules
from pipeline.commitment import CommitmentFault, find_uncommitted
from pipeline.domain import Sender
from pipeline.ports.services import Catalog
from tests.builders.catalog_rows import chest_header
from tests.builders.fakes.images import FakeImageStore

SENDER = Sender("CT1", "10.20.0.7", "RADCLIPD")
DX, CR = rules.DIGITAL_X_RAY_FOR_PRESENTATION, "1.2.840.10008.5.1.4.1.1.1"


def test_what_has_a_row_and_a_file_is_committed(catalog: Catalog) -> None:
    images = FakeImageStore()
    for number, content in enumerate((b"one", b"two"), 1):
        file = images.write_unclaimed(content, f"1.1.{number}")
        with catalog.begin() as tx:
            tx.studies.add_instance(chest_header("1.1", f"1.1.{number}"), file, SENDER, opens_study=True)
        if number == 2:
            images.remove(file)
    objects = [(DX, "1.1.1"), (DX, "1.1.2"), (DX, "1.1.3")]
    assert find_uncommitted(objects, sender=SENDER, catalog=catalog, images=images) == {
        "1.1.2": CommitmentFault.NO_FILE,
        "1.1.3": CommitmentFault.UNKNOWN,
    }
    assert find_uncommitted([(CR, "1.1.1")], sender=SENDER, catalog=catalog, images=images) == {
        "1.1.1": CommitmentFault.OTHER_CLASS
    }
    assert find_uncommitted([(DX, "1.1.1")], sender=SENDER, catalog=catalog, images=images) == {}
