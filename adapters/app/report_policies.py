"""`[decision]`, `[score]`, `[report]` as the steps read them. Apart from `policies`: the listener needs no published shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters.app.policies import chest_policy
from models.published_shares import published_share
from pipeline import decisions, report, score
from pipeline.domain import FINDINGS

if TYPE_CHECKING:
    from adapters.config.sections import Config
    from adapters.dicom.sr.document import ReportSettings


def decision_policy(config: Config) -> decisions.DecisionPolicy:
    """`[decision]` as the steps read it, with the priors of `[learn]`."""
    wanted, stated = config.decision, config.learn.prior_prevalence
    return decisions.DecisionPolicy(
        min_reference_studies=wanted.min_reference_studies,
        max_reference_studies=wanted.max_reference_studies,
        priors={finding: stated.get(finding, published_share(finding)) for finding in FINDINGS},
        call_rates=wanted.call_rate,
        assumed_auc=wanted.assumed_auc,
        min_age_years=wanted.min_age_years,
        unknown_age=wanted.unknown_age,
    )


def report_policy(config: Config) -> report.ReportPolicy:
    """`[report]` and `[decision]` as the step reads them."""
    return report.ReportPolicy(
        language=config.report.language,
        decision=decision_policy(config),
        deliver=config.report.deliver,
        destinations=(config.archive.ae_title,),
    )


def score_policy(config: Config) -> score.ScorePolicy:
    """`[score]`, `[study]`, `[decision]`, `[report]` and `[backfill]` as the step reads them."""
    return score.ScorePolicy(
        aggregate=config.score.aggregate,
        chest=chest_policy(config),
        rescored_studies=config.report.rescored_studies,
        backfill_reports=config.backfill.reports,
        batch_size=config.score.batch_size,
        decision=decision_policy(config),
        deliver=config.report.deliver,
        silent_share=config.report.silent_share,
    )


def report_settings(config: Config) -> ReportSettings:
    """`[report]` as the writer reads it."""
    from adapters.dicom.sr.document import ReportSettings

    return ReportSettings(**config.report.model_dump(exclude={"rescored_studies", "language", "deliver", "silent_share"}))
