"""The installed packages with their licences, and as a software bill of materials: CycloneDX 1.6, ECMA-424."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

OWN_NAME = "radclipd"
SPEC_VERSION = "1.6"
UNKNOWN_LICENCE = "not stated"
MAX_LICENCE_LENGTH = 80
"""A longer text in the field License is the licence itself, not its name."""
_NAME_END = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class InstalledPackage:
    """A package of this environment."""

    name: str  # normalised, as on the index
    version: str
    licence: str  # an SPDX expression where `is_expression`, else the words of the package
    is_expression: bool
    requires: Sequence[str]  # normalised names, with those of extras

    @property
    def purl(self) -> str:
        """The package URL."""
        return f"pkg:pypi/{self.name}@{self.version.replace('+', '%2B')}"


def list_packages() -> list[InstalledPackage]:
    """Return the installed packages by name, one version of each: the one that is imported."""
    found: dict[str, InstalledPackage] = {}
    for distribution in metadata.distributions():
        package = _describe_distribution(distribution)
        found.setdefault(package.name, package)
    return [found[name] for name in sorted(found)]


def _describe_distribution(distribution: metadata.Distribution) -> InstalledPackage:
    about = distribution.metadata
    expression = next(iter(about.get_all("License-Expression") or ()), None)
    return InstalledPackage(
        name=normalise_name(about["Name"]),
        version=distribution.version,
        licence=expression or _find_licence_words(about),
        is_expression=expression is not None,
        requires=sorted({normalise_name(_NAME_END.split(one, maxsplit=1)[0]) for one in distribution.requires or ()}),
    )


def normalise_name(name: str) -> str:
    """Return the name as the index has it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _find_licence_words(about: metadata.PackageMetadata) -> str:
    classifiers = [text.rpartition(" :: ")[2] for text in about.get_all("Classifier") or () if text.startswith("License ::")]
    stated = next(iter(about.get_all("License") or ()), "").strip()
    short = stated.splitlines()[0] if stated and len(stated.splitlines()[0]) <= MAX_LICENCE_LENGTH else ""
    return ", ".join(classifiers) or short or UNKNOWN_LICENCE


def build_bill(packages: Sequence[InstalledPackage], *, made_at: datetime | None = None) -> dict[str, Any]:
    """Return the bill of materials as JSON: components, their licences, and which needs which."""
    own = next((package for package in packages if package.name == OWN_NAME), None)
    others = [package for package in packages if package is not own]
    bill: dict[str, Any] = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {"timestamp": (made_at or datetime.now(UTC)).isoformat(timespec="seconds")},
        "components": [_describe_component(package, "library") for package in others],
        "dependencies": list(_list_dependencies(packages)),
    }
    if own is not None:
        bill["metadata"]["component"] = _describe_component(own, "application")
    return bill


def _describe_component(package: InstalledPackage, kind: str) -> Mapping[str, Any]:
    licence = {"expression": package.licence} if package.is_expression else {"license": {"name": package.licence}}
    return {
        "type": kind,
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        "licenses": [licence],
    }


def _list_dependencies(packages: Sequence[InstalledPackage]) -> Iterator[Mapping[str, Any]]:
    """Yield each package with those that it requires and that are installed."""
    references = {package.name: package.purl for package in packages}
    for package in packages:
        needed = [references[name] for name in package.requires if name in references and name != package.name]
        yield {"ref": package.purl, "dependsOn": needed}
