"""`radclipd audit verify`: the hash chain of the audit table."""

from __future__ import annotations

import json as json_format
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.overview import audit
from adapters.cli.settings import name_user, parts_of

if TYPE_CHECKING:
    from pipeline.audit_chain import ChainVerdict
    from pipeline.ports.audit import ChainAnchor

ANCHOR = re.compile(r"([1-9][0-9]*):([0-9a-f]{64})")


def register(app: typer.Typer) -> None:
    """Add the verb to the group `audit`."""
    audit.command()(verify)


def verify(
    ctx: typer.Context,
    anchor: Annotated[
        str, typer.Option(metavar="POSITION:SHA256", help="A link noted earlier, from the journal or the audit repository.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Verify the hash chain of the audit table.

    Exit status 1 where an event was changed, removed or inserted.
    """
    from pipeline.audit_chain import verify as verify_chain
    from pipeline.domain import AuditEvent

    noted = _parse_anchor(anchor)
    with parts_of(ctx) as parts:
        verdict = verify_chain(catalog=parts.catalog, anchor=noted)
        detail = f"chain of {verdict.events} events verified: {'holds' if verdict.holds else 'BROKEN'}"
        with parts.catalog.begin() as tx:
            tx.audit(AuditEvent("audit", "done" if verdict.holds else "failed", "", detail, name_user()))
    if json:
        typer.echo(json_format.dumps(asdict(verdict) | {"holds": verdict.holds}, indent=2))
    else:
        _write_verdict(verdict)
    if not verdict.holds:
        raise typer.Exit(1)


def _parse_anchor(text: str) -> ChainAnchor | None:
    from pipeline.ports.audit import ChainAnchor

    if not text:
        return None
    found = ANCHOR.fullmatch(text.strip().lower())
    if found is None:
        raise typer.BadParameter("an anchor is a position, a colon, and the 64 hex digits of the SHA-256", param_hint="--anchor")
    return ChainAnchor(int(found[1]), found[2])


def _write_verdict(verdict: ChainVerdict) -> None:
    typer.echo(f"{verdict.events} events: {'the chain holds' if verdict.holds else 'THE CHAIN IS BROKEN'}")
    for fault in verdict.faults:
        typer.echo(f"  event {fault.position}: {fault.fault}")
    if verdict.erased:
        typer.echo(f"{verdict.erased} events without content: their patients were forgotten")
    if verdict.unlinked:
        typer.echo(f"{verdict.unlinked} events wait for their link: the dispatcher links them within seconds")
    if verdict.events:
        typer.echo(f"head {verdict.events}:{verdict.head_sha256}" if verdict.holds else f"stored head {verdict.head_sha256}")
