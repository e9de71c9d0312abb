"""The software bill of materials: valid CycloneDX, complete, with the licences that the packages state."""

from __future__ import annotations

import json
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.schema._res import BOM_JSON, JSF, SPDX_JSON
from jsonschema import Draft7Validator
from referencing import Registry, Resource

from adapters.service.software_bill import InstalledPackage, build_bill, list_packages, normalise_name

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def packages() -> list[InstalledPackage]:
    return list_packages()


def make_validator() -> Draft7Validator:
    """The schema of CycloneDX, with the two schemas that it refers to."""
    files = {"spdx.SNAPSHOT.schema.json": SPDX_JSON, "jsf-0.82.SNAPSHOT.schema.json": JSF}
    schema_file = BOM_JSON[SchemaVersion.V1_6]
    assert schema_file is not None
    schema = json.loads(Path(schema_file).read_text())
    base = schema["$id"].rpartition("/")[0]
    resources = [(f"{base}/{name}", Resource.from_contents(json.loads(Path(path).read_text()))) for name, path in files.items()]
    return Draft7Validator(schema, registry=Registry().with_resources(resources))


def test_the_bill_is_valid_cyclonedx(packages: list[InstalledPackage]) -> None:
    bill = build_bill(packages)
    assert [error.message for error in make_validator().iter_errors(bill)] == []
    assert list(make_validator().iter_errors(bill | {"specVersion": 1})) != []  # the validator can refuse
    references = {component["bom-ref"] for component in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    assert {needed for one in bill["dependencies"] for needed in one["dependsOn"]} <= references
    assert len(references) == len(bill["components"]) + 1


def test_every_package_that_is_needed_is_in_the_bill(packages: list[InstalledPackage]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {normalise_name(requirement.partition("==")[0].partition("[")[0]) for requirement in project["dependencies"]}
    names = {package.name for package in packages}
    assert needed <= names
    assert {normalise_name(one.metadata["Name"]) for one in distributions()} == names
    (torch,) = (package for package in packages if package.name == "torch")
    assert "numpy" in {name for package in packages for name in package.requires}
    assert "BSD" in torch.licence


def test_licences_are_stated(packages: list[InstalledPackage]) -> None:
    stated = {package.name: package.licence for package in packages}
    assert "MIT" in stated["pydicom"]
    assert sum(licence == "not stated" for licence in stated.values()) <= len(stated) // 10
