"""`radclipd reports shadow`: what would have been sent, and how it agrees with what readers said."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.settings import parts_of

if TYPE_CHECKING:
    from pipeline.domain import DeliveryMode
    from pipeline.shadow import ShadowSummary

DEFAULT_DAYS = 14.0
_HEADER = ("finding", "assessed", "called", "share", "present", "found", "absent", "false calls")
_ROW = "{:18} {:>8} {:>7} {:>6} {:>8} {:>6} {:>7} {:>11}"


def shadow(
    ctx: typer.Context,
    days: Annotated[float, typer.Option(min=0, help="Studies received in the last days.")] = DEFAULT_DAYS,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Tell what reports say, or would say, beside what readers said.

    Volumes, calls, what would have been sent, and the agreement with labels that were given without the model's result.
    """
    from adapters.app.policies import label_policy
    from pipeline.shadow import summarise_shadow

    with parts_of(ctx) as parts:
        with parts.catalog.read() as tx:
            found = summarise_shadow(tx, days=days, policy=label_policy(parts.config))
        deliver = parts.config.report.deliver
    if json:
        typer.echo(json_format.dumps({"deliver": deliver.value} | asdict(found), indent=2, default=str))
        return
    for line in _describe_summary(found, deliver):
        typer.echo(line)


def _describe_summary(found: ShadowSummary, deliver: DeliveryMode) -> Iterator[str]:
    yield f"{found.since:%Y-%m-%d %H:%M} to {found.until:%Y-%m-%d %H:%M} UTC, report.deliver = {deliver.value}"
    yield f"studies  {found.arrived} received, {found.scored} scored, {found.silent} of them in the silent share"
    objects = "".join(f", {count} {kind}" for kind, count in sorted(found.kept_objects.items()))
    yield f"reports  {found.kept} would have been sent{objects}; {found.sent} sent; {found.kept_silent} silent"
    if not found.scored:
        return
    yield (
        f"calls    {found.calls / found.scored:.2f} per study;"
        f" {found.without_call} of {found.scored} studies without one ({found.without_call / found.scored:.0%})"
    )
    left_out = f"; {found.exposed} labels left out: given after a report" if found.exposed else ""
    yield f"labels   {found.read} studies read without the model's result{left_out}"
    yield ""
    yield _ROW.format(*_HEADER)
    for one in found.findings:
        share = f"{one.called / one.assessed:.1%}" if one.assessed else ""
        row = (one.assessed, one.called, share, one.present, one.found, one.absent, one.false_calls)
        yield _ROW.format(one.finding.replace("_", " "), *row)
    yield ""
    present, called = sum(one.present for one in found.findings), sum(one.found for one in found.findings)
    false = sum(one.false_calls for one in found.findings)
    if present:
        yield f"of {present} findings that readers state, {called} are called ({called / present:.0%})"
    if called + false:
        yield f"of {called + false} calls that readers have judged, {called} are confirmed ({called / (called + false):.0%})"
