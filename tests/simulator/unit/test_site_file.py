"""Sites described in files: what a file may say, and errors that name file, line, key and remedy."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from adapters.simulator import population
from adapters.simulator.site_file import LIMITS, choose_site, read_site
from adapters.simulator.sites import SITES, Site
from pipeline.domain import FINDINGS
from pipeline.errors import PermanentError

HARBOUR = """\
name = "harbour"
based_on = "west"
ap_share = 0.5
scatter = [0.1, 0.2]
curve = "sigmoid"
contrast = [1.5, 2]

[marker]
letter = "L"
word = ""

[prevalence_factors]
Edema = 2
Hernia = 5.0
"""


def written(folder: Path, text: str, name: str = "site.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def harbour(tmp_path: Path) -> Site:
    return read_site(written(tmp_path, HARBOUR))


def test_a_file_changes_the_fields_that_it_names(harbour: Site) -> None:
    west = SITES["west"]
    assert harbour == replace(
        west,
        name="harbour",
        equipment=replace(west.equipment, institution="PHANTOM HARBOUR HOSPITAL"),
        ap_share=0.5,
        scatter=(0.1, 0.2),
        curve="sigmoid",
        contrast=(1.5, 2.0),
        marker=replace(west.marker, letter="L", word=""),
        prevalence_factors={"Edema": 2.0, "Hernia": 5.0},
    )
    assert pickle.loads(pickle.dumps(harbour)) == harbour  # films are rendered by other processes


@pytest.mark.parametrize("name", SITES)
def test_every_built_in_site_can_be_written_as_a_file(name: str, tmp_path: Path) -> None:
    described = {**asdict(SITES[name]), "name": "copy"}
    copy = read_site(written(tmp_path, json.dumps(described), "copy.json"))
    assert replace(copy, name=name) == SITES[name]
    assert choose_site(str(tmp_path / "copy.json")) == copy


def test_the_fingerprint_is_of_the_content(harbour: Site, tmp_path: Path) -> None:
    moved = read_site(written(tmp_path, "# the same\n" + HARBOUR, "moved.toml"))
    assert moved.fingerprint == harbour.fingerprint
    one_field = read_site(written(tmp_path, HARBOUR.replace("0.2]", "0.21]"), "other.toml"))
    assert len({harbour.fingerprint, one_field.fingerprint, *(site.fingerprint for site in SITES.values())}) == 2 + len(SITES)


def test_the_example_of_the_guide_is_a_site(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[3] / "deploy/docs/experiment.md").read_text(encoding="utf-8")
    example = read_site(written(tmp_path, guide.partition("$ cat harbour.toml\n")[2].partition("```")[0]))
    assert (example.name, example.scatter, example.border) == ("harbour", (0.10, 0.20), "black")
    assert example.noise == SITES["west"].noise


def test_every_number_has_limits() -> None:
    numbers = {
        f"{table}{key}"
        for table, fields in (("", asdict(SITES["west"])), *((f"{t}.", asdict(SITES["west"])[t]) for t in ("equipment", "marker")))
        for key, value in fields.items()
        if not isinstance(value, str | dict) and not (isinstance(value, tuple) and isinstance(value[0], str))
    }
    assert numbers | {"prevalence_factors"} == set(LIMITS)


@pytest.mark.parametrize(
    ("text", "line", "reason", "remedy"),
    [
        ("", 0, "the key name is absent", 'name = "harbour"'),
        ('name = "west"', 1, "name = 'west'", "none of east, lake"),
        ('name = "../x"', 1, "name = '../x'", "small letters"),
        ('name = "harbour"\nbased_on = "moon"', 2, "based_on = 'moon'", "choose from east"),
        ('name = "harbour"\nscater = [0, 1]', 2, "scater is not a key of a site", "write scatter instead"),
        ('name = "harbour"\nfingerprint = "0"', 2, "fingerprint is not a key of a site", "the keys are name, "),
        ('name = "harbour"\n[marker]\nletterr = "L"', 3, "marker.letterr is not a key", "write marker.letter instead"),
        ('name = "harbour"\nscatter = [0.3, 0.1]', 2, "scatter = [0.3, 0.1]", "the lowest value first"),
        ('name = "harbour"\nscatter = 0.3', 2, "scatter: should be a valid array", "scatter = [0.08, 0.16]"),
        ('name = "harbour"\nscatter = [0.1, 0.2, 0.3]', 2, "scatter: should have at most 2 items", "scatter = [0.08, 0.16]"),
        ('name = "harbour"\nap_share = true', 2, "ap_share: should be a valid number", "ap_share = 0.4"),
        ('name = "harbour"\nap_share = "0.3"', 2, "ap_share: should be a valid number", "ap_share = 0.4"),
        ('name = "harbour"\nap_share = nan', 2, "ap_share = NaN", "from 0 to 1"),
        ('name = "harbour"\nzoom = [1, inf]', 2, "zoom = [1.0, Infinity]", "from 0.5 to 2"),
        ('name = "harbour"\ncontrast = [0, 1]', 2, "contrast = [0.0, 1.0]", "from 0.05 to 10"),
        ('name = "harbour"\ncurve = "cubic"', 2, "curve: should be 'gamma' or 'sigmoid'", 'curve = "gamma"'),
        ('name = "harbour"\nborder = "grey"', 2, "border: should be 'black' or 'white'", 'border = "black"'),
        ('name = "harbour"\nmarker = "L"', 2, "marker: should be an object", "[marker]"),
        ('name = "harbour"\n[marker]\nword = "' + "W" * 61 + '"', 3, "marker.word has 61 characters", "at most 60"),
        ('name = "harbour"\n[prevalence_factors]\nEdemma = 2', 3, "Edemma is no finding", "Edema"),
        ('name = "harbour"\n[prevalence_factors]\nEdema = 0', 3, "prevalence_factors.Edema = 0.0", "from 0.01 to 30"),
        (
            'name = "harbour"\n[prevalence_factors]\nEdema = "2"',
            3,
            "prevalence_factors.Edema: should be a valid number",
            "a number",
        ),
        ('name = "harbour"\n[equipment]\ndx_bits = []', 3, "equipment.dx_bits = []", "at least one"),
        ('name = "harbour"\n[equipment]\ndx_bits = [12.5]', 3, "equipment.dx_bits: should be a valid integer", "[12, 14]"),
        ('name = "harbour"\n[equipment]\nempty_attributes = ["Rows"]', 3, "names 'Rows'", "choose from BodyPartExamined"),
        ('name = "harbour"\n[equipment]\npoor_share = 0.9', 3, "exceed 1 together", "lower one"),
        ("name = ", 0, "not valid TOML", "example"),
    ],
)
def test_an_error_names_file_line_key_and_remedy(text: str, line: int, reason: str, remedy: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(PermanentError) as refused:
        choose_site(str(path))
    assert str(refused.value).startswith(f"{path}, line {line}: " if line else f"{path}: ")
    assert reason in str(refused.value)
    assert remedy in refused.value.hint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1]", "no JSON object"),
        ("{", "not valid JSON"),
        ('{"name": "harbour", "marker": {"letter": "X"}}', "marker.letter: should be"),
    ],
)
def test_a_file_of_json(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=reason):
        choose_site(str(written(tmp_path, text, "site.json")))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"gone\.toml: No such file"):
        choose_site(str(tmp_path / "gone.toml"))
    (tmp_path / "latin.toml").write_bytes(b'name = "h\xe4fen"')
    with pytest.raises(PermanentError, match="not UTF-8"):
        choose_site(str(tmp_path / "latin.toml"))
    with pytest.raises(PermanentError, match="no phantom hospital is called 'moon'") as refused:
        choose_site("moon")
    assert "west" in refused.value.hint
    assert ".toml" in refused.value.hint


def weighted_shares(site: Site) -> dict[str, float]:
    cases = population.enriched_cases(site, 1500, seed=3, per_finding=20)
    return {finding: sum(case.weight for case in cases if finding in case.findings) / 1500 for finding in FINDINGS}


def test_prevalence_factors_hold_for_both_kinds_of_population(harbour: Site) -> None:
    before, after = (weighted_shares(site) for site in (replace(harbour, prevalence_factors={}), harbour))
    for finding in FINDINGS:
        assert after[finding] == pytest.approx(before[finding] * harbour.prevalence_factors.get(finding, 1), rel=0.05), finding
    natural = population.natural_cases(harbour, 20_000, seed=3)
    for finding in FINDINGS:
        share = np.mean([finding in case.findings for case in natural])
        assert share == pytest.approx(after[finding], rel=0.35, abs=0.003), finding
    assert np.mean([case.view == "AP" for case in natural]) == pytest.approx(0.5, abs=0.02)


def test_impossible_prevalence_factors_are_refused(harbour: Site) -> None:
    with pytest.raises(PermanentError, match=r"the site 'harbour' asks for .* on .* of its films") as refused:
        population.natural_cases(replace(harbour, prevalence_factors={"Infiltration": 10.0}), 10, seed=1)
    assert "nearer to 1" in refused.value.hint


def test_films_have_the_look_of_the_described_site(harbour: Site) -> None:
    case = population.natural_cases(harbour, 4, seed=1)[0]
    ours = population.take_film(case, size=(48, 48)).pixels
    assert case.patient.startswith("harbour-")
    assert (ours != population.take_film(replace(case, hospital=SITES["west"]), size=(48, 48)).pixels).any()
