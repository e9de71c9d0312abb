"""constraints-hashes.txt has each pinned package with the hash of a file."""

from __future__ import annotations

import re

from deploy import hash_constraints


def test_every_constraint_has_a_hash_and_nothing_else_has_one() -> None:
    hashes = hash_constraints.read_hashes(hash_constraints.HASHED)
    assert list(hashes) == hash_constraints.CONSTRAINTS.read_text().split()
    assert all(re.fullmatch("[0-9a-f]{64}", value) for values in hashes.values() for value in values)
    assert all(hashes.values())


def test_the_hash_of_a_report_belongs_to_its_constraint() -> None:
    file = {"archive_info": {"hashes": {"sha256": "a" * 64}}}
    report = {"install": [{"metadata": {"name": "Foo_Bar.x", "version": "1.0+cpu"}, "download_info": file}]}
    assert hash_constraints.collect_hashes(report) == {hash_constraints.normalise("foo-bar.x==1.0"): ["a" * 64]}
