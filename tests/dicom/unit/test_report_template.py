"""A report from a cached template equals, byte for byte, one built by highdicom without templates."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Self

import highdicom.base
import highdicom.base_content
import highdicom.sr.sop
import pytest
from highdicom.sr import Measurement
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

import adapters.dicom.sr.document
from adapters.dicom.sr import codes
from adapters.dicom.sr.dataset_template import DatasetTemplate, encode_dataset
from adapters.dicom.sr.document import SR_CLASS_UIDS, ReportSettings
from adapters.dicom.sr.writer import TEMPLATE_CACHE_SIZE, SrWriter
from pipeline.domain import FINDINGS, Decision, ModelVersion, Scale, VersionState
from pipeline.errors import ReportImpossible
from pipeline.ports.services import ReportContent
from tests.builders.dicom_files import dx, file_of
from tests.builders.documents import code, container
from tests.builders.fakes.images import FakeImageStore
from tests.builders.headers import HEADER_VARIANTS
from tests.builders.reference_report import build_reference_report
from tests.builders.report_of import LEARNT, a_card_version, content_of, told_of


class _Noon(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        return cls(2026, 5, 1, 12, 0, 0, 250_000, tzinfo=tz)


@pytest.fixture(scope="module", autouse=True)
def noon() -> Iterator[None]:
    """Fix the clock of highdicom and of the writer at noon, so that two reports have the same time."""
    with pytest.MonkeyPatch.context() as patch:
        clock = SimpleNamespace(**{**vars(datetime), "datetime": _Noon})
        for module in (highdicom.base, highdicom.base_content, highdicom.sr.sop):
            patch.setattr(module, "datetime", clock)
        patch.setattr(adapters.dicom.sr.document, "datetime", _Noon)
        yield


STORE = FakeImageStore()
WRITERS: dict[ReportSettings, SrWriter] = {}
"""Writers shared by all examples, as a daemon's writer serves for months."""


def writer_of(wanted: ReportSettings) -> SrWriter:
    return WRITERS.setdefault(wanted, SrWriter(wanted, STORE))


def build_content(film: Dataset, wanted: ReportSettings, version: ModelVersion, **changes: Any) -> ReportContent:
    return replace(content_of([file_of(film)], STORE, writer_of(wanted), version), **changes)


words = st.text(st.characters(codec="utf-8", categories=["L", "N"]), max_size=12)
versions = st.builds(
    a_card_version,
    number=st.integers(1, 9),
    name=st.sampled_from(["zero-shot", "n" * 80]),
    scales=st.dictionaries(st.sampled_from(FINDINGS), st.sampled_from(Scale)),
    notice=st.sampled_from(["", "UNTRAINED"]),
    label_fingerprint=st.sampled_from(["", "f" * 16]),
    state=st.sampled_from(VersionState),
    undetermined_margin=st.sampled_from([0.0, 0.05]),
)
report_settings = st.builds(
    ReportSettings,
    sop_class=st.sampled_from(sorted(SR_CLASS_UIDS)),
    uid_root=st.sampled_from(["", "1.2.826.0.1.3680043.10.999"]),
    include_absent=st.booleans(),
    institution_name=words,
)
scores = st.lists(st.floats(0, 1, width=32), min_size=len(FINDINGS), max_size=len(FINDINGS))


@st.composite
def contents(draw: st.DrawFn) -> tuple[ReportContent, ReportSettings]:
    film = draw(st.sampled_from(list(HEADER_VARIANTS.values())))
    others = draw(st.lists(st.sampled_from(list(HEADER_VARIANTS.values())), max_size=2))
    wanted, version, revision = draw(report_settings), draw(versions), draw(st.integers(1, 3))
    writer = writer_of(wanted)
    films = [film, *(in_same_study(other, film) for other in others)]
    drawn, has_reference = draw(scores), draw(st.booleans())
    files = [file_of(one) for one in films]
    content = content_of(files, STORE, writer, version, revision=revision, scores=drawn, has_reference=has_reference)
    content = told_of(content, content.predictions, draw(st.sampled_from(["en", "de"])))
    study = content.study.study_instance_uid
    before = writer.pending_report(study, version.number, revision - 1) if draw(st.booleans()) else None
    return replace(content, predecessor=before), wanted


def in_same_study(other: Dataset, film: Dataset) -> Dataset:
    """A copy of the image as another instance of the same study."""
    another = copy.deepcopy(other)
    another.StudyInstanceUID, another.SOPInstanceUID = film.StudyInstanceUID, generate_uid()
    return another


@settings(max_examples=12)
@given(contents())
def test_any_content_gives_the_reference_report(drawn: tuple[ReportContent, ReportSettings]) -> None:
    content, wanted = drawn
    assert writer_of(wanted).write(content) == build_reference_report(content, STORE, wanted)


@pytest.mark.parametrize("film", HEADER_VARIANTS.values(), ids=HEADER_VARIANTS.keys())
def test_any_header_gives_the_reference_report(film: Dataset) -> None:
    content = build_content(film, ReportSettings(), a_card_version())
    assert writer_of(ReportSettings()).write(content) == build_reference_report(content, STORE, ReportSettings())


@given(st.floats(0, 1))
@settings(max_examples=300)
def test_any_number_is_encoded_as_by_highdicom(probability: float) -> None:
    """A DS has 16 characters; FloatingPointValue holds the exact number (PS3.3 C.18.1)."""
    half, item = (Measurement(name=codes.PROBABILITY, value=value, unit=codes.RATIO)[0] for value in (0.5, probability))
    template = DatasetTemplate(half, ("NumericValue", "FloatingPointValue"))
    assert template.fill(NumericValue=probability, FloatingPointValue=probability) == encode_dataset(item)


def test_a_changed_version_gets_a_new_template() -> None:
    """Changes in the catalog, of thresholds or of the notice, appear in the next report."""
    writer = writer_of(ReportSettings())
    for version in (
        a_card_version(),
        a_card_version(thresholds=dict.fromkeys(FINDINGS, 0.25)),
        a_card_version(notice="UNTRAINED"),
    ):
        content = build_content(dx(), ReportSettings(), version)
        assert writer.write(content) == build_reference_report(content, STORE, ReportSettings())


def test_the_number_of_cached_templates_is_bounded() -> None:
    writer = SrWriter(ReportSettings(), STORE)
    film = dx()
    for number in range(1, TEMPLATE_CACHE_SIZE + 3):
        writer.write(build_content(film, ReportSettings(), a_card_version(number=number)))
    assert len(writer._templates) <= TEMPLATE_CACHE_SIZE


@pytest.mark.parametrize("probability", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(probability: float) -> None:
    content = build_content(dx(), ReportSettings(), a_card_version(scales=LEARNT))
    first = replace(content.statement.findings[0], probability=probability)
    content = replace(content, statement=replace(content.statement, findings=(first, *content.statement.findings[1:])))
    with pytest.raises(ReportImpossible):
        writer_of(ReportSettings()).write(content)


def test_absent_findings_are_reported_where_there_are_no_others() -> None:
    wanted = ReportSettings(include_absent=False)
    version = a_card_version(scales=LEARNT)
    content = content_of([file_of(dx())], STORE, writer_of(wanted), version, scores=[0.01] * len(FINDINGS))
    assert {one.decision for one in content.predictions} == {Decision.ABSENT}
    assert writer_of(wanted).write(content) == build_reference_report(content, STORE, wanted)


def test_filling_a_blank_updates_the_lengths_of_all_levels() -> None:
    leaf = code(("1", "99A", "name"), ("2", "99A", "value"))
    tree = container(("3", "99A", "outer"), container(("4", "99A", "inner"), leaf))
    template = DatasetTemplate(tree, ("CodeMeaning",))
    for one in (leaf.ConceptNameCodeSequence, leaf.ConceptCodeSequence):
        one[0].CodeMeaning = "something longer, of odd length"
    tree.ConceptNameCodeSequence[0].CodeMeaning = "something longer, of odd length"
    tree.ContentSequence[0].ConceptNameCodeSequence[0].CodeMeaning = "something longer, of odd length"
    assert template.fill(CodeMeaning="something longer, of odd length") == encode_dataset(tree)


def test_a_blank_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        DatasetTemplate(code(("1", "99A", "name"), ("2", "99A", "value")), ("CodeMeaning",)).fill()
