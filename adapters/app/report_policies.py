"""`[decision]` and `[report]` as the steps read them. Apart from `policies`, for the listener needs no published shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.published_shares import published_share
from pipeline import decisions, report
from pipeline.domain import FINDINGS

if TYPE_CHECKING:
    from adapters.config.sections import Config


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
        language=config.report.language, decision=decision_policy(config), destinations=(config.archive.ae_title,)
    )
