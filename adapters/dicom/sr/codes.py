"""Codes of findings and sites, from `codes.csv`, which has a source in each row."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from highdicom.sr import CodedConcept

from pipeline.domain import FINDINGS, Decision

PRIVATE_SCHEME = "99RADCLIPD"

SITES = {  # PS3.16 context group content, SNOMED CT
    "39607008": "Lung",
    "80891009": "Heart",
    "3120008": "Pleural structure",
    "5798000": "Diaphragm",
}


@dataclass(frozen=True, slots=True)
class FindingCode:
    """The codes of a finding and of its site, with their source."""

    finding: str
    concept: CodedConcept
    site: CodedConcept
    source: str


@cache
def finding_codes() -> dict[str, FindingCode]:
    """Return finding -> code, in the order of FINDINGS."""
    with files("adapters.dicom.sr").joinpath("codes.csv").open(encoding="utf-8") as stream:
        rows = {row["finding"]: row for row in csv.DictReader(stream)}
    return {
        finding: FindingCode(
            finding,
            CodedConcept(rows[finding]["code"], rows[finding]["scheme"], rows[finding]["meaning"]),
            CodedConcept(rows[finding]["site"], "SCT", SITES[rows[finding]["site"]]),
            rows[finding]["source"],
        )
        for finding in FINDINGS
    }


def concept(value: str, scheme: str, meaning: str) -> CodedConcept:
    """Return a coded concept."""
    return CodedConcept(value, scheme, meaning)


DEVICE = concept("121007", "DCM", "Device")
PERSON = concept("121006", "DCM", "Person")
IMAGING_PROCEDURE = concept("363679005", "SCT", "Imaging procedure")  # CID 100
ARTIFICIAL_INTELLIGENCE = concept("123110", "DCM", "Artificial Intelligence")  # CID 7162
PROBABILITY = concept("122157", "DCM", "Probability")
CERTAINTY_OF_FINDING = concept("111012", "DCM", "Certainty of Finding")
RATIO = concept("{0:1}", "UCUM", "range: 0:1")
PERCENT = concept("%", "UCUM", "Percent")
COMMENT = concept("121106", "DCM", "Comment")
QUALITATIVE_EVALUATIONS = concept("C0034375", "UMLS", "Qualitative Evaluations")
PERCENTILE_RANKING = concept("121415", "DCM", "Percentile Ranking of measurement")  # CID 221
NOT_EVALUATED = concept("373121007", "SCT", "Not Evaluated")  # CID 3703
SUMMARY = concept("121111", "DCM", "Summary")
IMPRESSIONS, IMPRESSION = concept("121072", "DCM", "Impressions"), concept("121073", "DCM", "Impression")
FINDINGS_SECTION, FINDING = concept("121070", "DCM", "Findings"), concept("121071", "DCM", "Finding")
LANGUAGE = concept("121049", "DCM", "Language of Content Item and Descendants")
ALGORITHM_NAME = concept("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = concept("111003", "DCM", "Algorithm Version")
ALGORITHM_PARAMETERS = concept("111002", "DCM", "Algorithm Parameters")
ALGORITHM_FAMILY = concept("111000", "DCM", "Algorithm Family")

LANGUAGES = {"en": ("en-US", "English (United States)"), "de": ("de", "German")}  # RFC 5646


def report_title(title: str) -> CodedConcept:
    """Return the concept name of a report's root: a private code that says AI, for CID 7021 and 7000 have none that does."""
    return concept("AI-CHEST", PRIVATE_SCHEME, title)


def language_code(language: str) -> CodedConcept:
    """Return the code of a language (RFC 5646)."""
    value, meaning = LANGUAGES.get(language, (language, language))
    return concept(value, "RFC5646", meaning)


DECISIONS = {  # CID 240
    Decision.PRESENT: concept("52101004", "SCT", "Present"),
    Decision.ABSENT: concept("272519000", "SCT", "Absent"),
    Decision.UNDETERMINED: concept("373068000", "SCT", "Undetermined"),
}
