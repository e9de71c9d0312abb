"""Labelling campaigns: on synthetic films, by the verb, and their figures."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from adapters.cli import app
from adapters.experiment.campaigns import LEARNERS, RANDOM, WORKLIST, CampaignPoint, Campaigns, SelectionStrategy, build_strategies
from adapters.experiment.phantom_source import PhantomSizes, natural_source
from adapters.experiment.worklist import studies_to_reach
from models.evaluation.cases import PRESENT, Split
from models.ladder.method import FewShotBenchmark
from pipeline.acquisition import SelectionPolicy, SelectionReason
from pipeline.domain import FINDINGS
from pipeline.errors import PermanentError
from tests.builders import benches, nih_folder, tiny


def run(
    campaigns: Campaigns, strategy: SelectionStrategy, *, seed: int = 0, studies: int = 12, step: int = 5
) -> list[CampaignPoint]:
    return list(campaigns.run(strategy, seed=seed, studies=studies, step=step))


def bench() -> FewShotBenchmark:
    """900 films of 400 patients in which every finding shifts the features along a direction correlated with the text."""
    rng = np.random.default_rng(5)
    labels = (rng.random((900, len(FINDINGS))) < np.linspace(0.02, 0.25, len(FINDINGS))).astype(np.int8)
    truth = benches.unit(rng.standard_normal((len(FINDINGS), benches.WIDTH)))
    common = 4 * np.eye(benches.WIDTH)[0]
    features = benches.unit(common + 0.2 * (rng.standard_normal((900, benches.WIDTH)) + 2 * labels @ truth))
    text = benches.unit(truth + rng.standard_normal(truth.shape) / np.sqrt(benches.WIDTH))
    patient = np.array([f"P{number:03d}" for number in np.r_[rng.integers(300, size=600), 300 + rng.integers(100, size=300)]])
    made = benches.world(images=900).bench
    cases = replace(made.cases, labels=labels, patient=patient, findings=FINDINGS)
    split = Split(pool=np.arange(600), test=np.arange(600, 900))
    text_head = benches.head_of(text)
    return replace(made, cases=cases, split=split, features=torch.from_numpy(features.astype(np.float32)), ensemble=text_head)


@pytest.fixture(scope="module")
def campaigns() -> Campaigns:
    return Campaigns(bench(), LEARNERS["stage-1"])


def test_a_campaign_reads_list_after_list_deterministically(campaigns: Campaigns) -> None:
    for strategy in build_strategies(SelectionPolicy()):
        points = run(campaigns, strategy)
        assert [point.studies_read for point in points] == [5, 10, 12]
        assert points == run(campaigns, strategy)
        assert all(0 < point.auc < 1 for point in points)
    assert run(campaigns, build_strategies(SelectionPolicy())[0], seed=1) != run(campaigns, build_strategies(SelectionPolicy())[0])


def test_a_campaign_ends_when_every_patient_is_read(campaigns: Campaigns) -> None:
    patients = len(np.unique(bench().cases.patient[:600]))
    points = run(campaigns, build_strategies(SelectionPolicy())[0], studies=5000, step=200)
    assert points[-1].studies_read == patients
    assert [point.studies_read for point in points] == [200, patients]


def test_auc_grows_with_reading_and_the_worklist_finds_more_rare_findings(campaigns: Campaigns) -> None:
    by_name = {strategy.name: strategy for strategy in build_strategies(SelectionPolicy())}
    random = run(campaigns, by_name[RANDOM], studies=100, step=20)
    ours = run(campaigns, by_name[WORKLIST], studies=100, step=20)
    assert random[-1].auc > campaigns.zero_shot_auc()
    assert ours[-1].auc > campaigns.zero_shot_auc()
    assert campaigns.all_labels_auc() > ours[-1].auc
    assert sum(ours[-1].positives[:4]) > 1.5 * sum(random[-1].positives[:4])


def test_the_monitoring_sample_is_not_trained_on() -> None:
    of = bench()
    nothing = {reason.value: 0.0 for reason in SelectionReason}
    aside = SelectionStrategy("aside", SelectionPolicy(**nothing | {"monitoring": 1.0}))
    (point,) = run(Campaigns(of, LEARNERS["stage-1"]), aside, studies=50, step=50)
    assert point.positives == (0,) * len(FINDINGS)
    assert point.auc == Campaigns(of, LEARNERS["stage-1"]).zero_shot_auc()


def points(strategy: str, seed: int, *aucs: float) -> list[CampaignPoint]:
    return [CampaignPoint(strategy, seed, 10 * (at + 1), auc, ()) for at, auc in enumerate(aucs)]


def test_saved_studies_are_computed_for_the_mean_and_each_campaign() -> None:
    made = points(RANDOM, 0, 0.60, 0.70, 0.80) + points(RANDOM, 1, 0.62, 0.72, 0.78)
    made += points(WORKLIST, 0, 0.72, 0.90, 0.90) + points(WORKLIST, 1, 0.68, 0.70, 0.70)
    found = studies_to_reach(made, [19, 30])
    assert (found["20"]["auc"], found["20"]["needed"], found["20"]["ratio"]) == (pytest.approx(0.71), 20, 1.0)
    assert found["20"]["each"] == {"min": 0.5, "median": 1.25, "max": 2.0}  # the second never: 40 of 20
    assert (found["20"]["never"], found["30"]["never"]) == (1, 1)
    assert (found["30"]["needed"], found["30"]["ratio"]) == (20, pytest.approx(2 / 3))
    missed = studies_to_reach(made[:6] + points(WORKLIST, 0, 0.5, 0.5, 0.5), [30])["30"]
    assert (missed["needed"], missed["ratio"], missed["each"]["min"]) == (None, None, pytest.approx(4 / 3))


def test_the_natural_source_has_one_film_per_person_at_the_site_s_prevalences() -> None:
    source = natural_source(sizes=PhantomSizes(pool=600, test=60, pool_positives=0, test_positives=2, edge=32), workers=1)
    split = source.split(source.cases)
    assert (len(split.pool), len(split.test)) == (600, 60)
    assert len(np.unique(source.cases.patient)) == 660
    share = (source.cases.labels[split.pool] == PRESENT).mean(axis=0)
    assert share[FINDINGS.index("Infiltration")] > 0.12
    assert share[FINDINGS.index("Hernia")] < 0.02
    assert source.read_film(0).shape == (32, 32)
    other = natural_source(
        sizes=PhantomSizes(pool=600, test=60, pool_positives=0, test_positives=2, edge=32), workers=1, film_seed=9
    )
    assert other.fingerprint != source.fingerprint
    with pytest.raises(PermanentError, match="no phantom hospital"):
        natural_source("atlantis")


def test_the_verb_writes_points_summary_and_plot(tmp_path: Path) -> None:
    nih_folder.collection(tmp_path / "nih", 96)
    tiny.base(tmp_path / "base")
    words = ["experiment", "worklist", "--data", "nih", "--folder", str(tmp_path / "nih"), "--base", str(tmp_path / "base")]
    words += ["--cache", str(tmp_path / "cache"), "--device", "cpu", "--studies", "20", "--step", "10", "--seeds", "2"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out"), "--json"], catch_exceptions=False)
    summary = json.loads(done.stdout)
    assert list(summary["mean_auc"]) == ["random", "uncertainty", "worklist"]
    assert list(summary["mean_auc"]["random"]) == ["10", "20"]
    assert summary["seeds"] == [0, 1]
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    rows = list(csv.DictReader((tmp_path / "out" / "points.csv").read_text().splitlines()))
    assert len(rows) == 3 * 2 * 2
    assert (tmp_path / "out" / "auc-by-studies-read.png").read_bytes().startswith(b"\x89PNG")
    output = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert "studies read" in output
    assert "by the worklist" in output
    assert CliRunner().invoke(app, [*words, "--learner", "stage1"]).exit_code == 2
    assert CliRunner().invoke(app, ["experiment", "worklist", "--data", "nih"]).exit_code == 2
