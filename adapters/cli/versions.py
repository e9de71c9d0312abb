"""`radclipd versions list | show | promote | reject | rollback`: model versions. Every change of the serving one is audited."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli import activity, output
from adapters.cli.learn import MEASURE_COLUMNS, describe_next_step, measures_of
from adapters.cli.settings import config_of, name_user, parts_of
from pipeline.errors import PermanentError, RadclipdError

if TYPE_CHECKING:
    from adapters.config.sections import Config
    from adapters.storage.model_store import ModelStore, StoredBase
    from pipeline.domain import ModelVersion
    from pipeline.versions import VerifyWeights

NumberArgument = Annotated[int, typer.Argument(metavar="N", help="Number of the version.")]

VERSIONS_SQL = """
SELECT number, state, name, base, weights_sha256, notice, calibrated, created_at, served_at, retired_at, reason,
    card -> 'architecture' AS architecture
FROM v_model_versions ORDER BY number"""
VERSION_SQL = """
SELECT number, state, name, base, weights_sha256, device_uid, notice, calibrated, label_fingerprint, scales, thresholds,
    undetermined_margin, reference, reason, created_at, served_at, retired_at, card
FROM v_model_versions WHERE number = {number}"""

LIST_COLUMNS = (
    "number",
    "state",
    "name",
    "architecture",
    "activation",
    "weights",
    "files",
    "notice",
    "calibrated",
    "created_at",
    "served_at",
    "retired_at",
    "reason",
)
COMPARISON_COLUMNS = ("against", "sample", "cases", "patients", "auc", "other_auc", "lower", "upper", "not_worse", "worse_in")
"""Of `card.learning.comparisons`; `lower`, `upper`: 95 % interval of the difference; `not_worse`: share of the resamples."""
CANDIDATE = "candidate"
"""`VersionState.CANDIDATE`, as the view has it."""
FINGERPRINT_DIGITS = 12
"""Of a SHA-256, in tables."""

versions = typer.Typer(help="Model versions: list, show, promote, reject, rollback.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(versions, name="versions")


@versions.command("list")
def list_(
    ctx: typer.Context,
    table: output.TableFlag = False,
    csv: output.CsvFlag = False,
    raw: output.RawFlag = False,
    json: output.JsonFlag = False,
) -> None:
    """List versions and unused bases, and the work in progress.

    `files` says whether the model directory holds the files of a version. A base that no version uses has no number and the state
    "unused". Standard error reports the learning and the re-scoring in progress.
    """
    form = output.choose_format(table=table, csv=csv, json=json, raw=raw)
    from adapters.catalog import query, schema

    with parts_of(ctx) as parts:
        url, store = parts.config.catalog.url, parts.models
    schema.verify(url)
    with query.open_session(url) as ask:
        columns, found_rows = ask(VERSIONS_SQL)
        found = [dict(zip(columns, row, strict=True)) for row in found_rows]
        rows = [_make_version_row(version, store) for version in found]
        rows += map(_make_unused_row, _read_unused_bases(store, {version["base"] for version in found}))
        output.write_rows(LIST_COLUMNS, rows, form)
        for waiting in (version["number"] for version in found if _is_waiting(version)):
            typer.echo(f"version {waiting} waits for a decision: {describe_next_step(waiting)}", err=True)
        for line in activity.activity_lines(ask):
            typer.echo(line, err=True)


@versions.command()
def show(
    ctx: typer.Context,
    number: NumberArgument,
    table: Annotated[bool, typer.Option("--table", help="Text and tables (the default).")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="The measures of each finding as CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object: the whole version and its card.")] = False,
) -> None:
    """Print one version: card, gate verdict, findings, measures."""
    form = output.choose_format(table=table, csv=csv, json=json, raw=False)
    config = config_of(ctx)
    from adapters.catalog import query, schema

    schema.verify(config.catalog.url)
    columns, rows = query.run(config.catalog.url, VERSION_SQL.format(number=number))
    if not rows:
        raise PermanentError(f"there is no version {number}", hint="radclipd versions list")
    version = dict(zip(columns, rows[0], strict=True))
    version |= {name: json_format.loads(version[name] or "{}") for name in ("scales", "thresholds", "card")}
    version["calibrated"] = bool(version["calibrated"])
    if form is output.Format.JSON:
        json_format.dump(version, sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif form is output.Format.CSV:
        output.write_rows(MEASURE_COLUMNS, measures_of(version["card"]), form)
    else:
        _print_version(version)


@versions.command()
def promote(ctx: typer.Context, number: NumberArgument) -> None:
    """Let a version serve, whatever its state.

    Its files are loaded and verified first. The version that serves now is retired.
    """
    from pipeline import versions as steps

    with parts_of(ctx) as parts:
        verify = _make_verifier(parts.config)
        typer.echo(_format_version(steps.promote(number, catalog=parts.catalog, verify=verify, source=name_user())))


@versions.command()
def reject(
    ctx: typer.Context,
    number: NumberArgument,
    reason: Annotated[str, typer.Option(help="The reason; the version keeps it.")],
) -> None:
    """Reject a version that does not serve."""
    from pipeline import versions as steps

    if not reason.strip():
        raise typer.BadParameter("give a reason", param_hint="--reason")
    with parts_of(ctx) as parts:
        typer.echo(_format_version(steps.reject(number, reason=reason.strip(), catalog=parts.catalog, source=name_user())))


@versions.command()
def rollback(
    ctx: typer.Context, reason: Annotated[str, typer.Option(help="The reason; the version keeps it.")] = "rolled back"
) -> None:
    """Reject the serving version; its predecessor serves again."""
    from pipeline import versions as steps

    with parts_of(ctx) as parts:
        before = steps.rollback(
            reason=reason.strip() or "rolled back",
            catalog=parts.catalog,
            verify=_make_verifier(parts.config),
            source=name_user(),
        )
    typer.echo(f"version {before.number} serves again: {before.name}")


def _is_waiting(version: Mapping[str, Any]) -> bool:
    """Whether a learnt version passed the gate and waits for a person; imported versions have no reason."""
    return bool(version["state"] == CANDIDATE and version["reason"])


def _make_version_row(version: Mapping[str, Any], store: ModelStore) -> tuple[Any, ...]:
    try:
        files = "present" if store.has_version(version["number"], base=version["base"]) else "MISSING"
    except PermissionError:
        files = "no access"
    row = {
        **version,
        **_describe_network(json_format.loads(version["architecture"] or "{}")),
        "weights": version["weights_sha256"][:FINGERPRINT_DIGITS],
        "files": files,
        "calibrated": bool(version["calibrated"]),
    }
    return tuple(row[column] for column in LIST_COLUMNS)


def _make_unused_row(base: StoredBase) -> tuple[Any, ...]:
    row = {
        **_describe_network(base.card.get("architecture", {})),
        "state": "unused",
        "name": base.name,
        "weights": base.weights_sha256[:FINGERPRINT_DIGITS],
        "files": "present",
        "notice": base.card.get("notice", ""),
    }
    return tuple(row.get(column) for column in LIST_COLUMNS)


def _read_unused_bases(store: ModelStore, used: set[str]) -> list[StoredBase]:
    """Return the bases of no version; none where they cannot be read, with the reason on standard error."""
    try:
        return [base for base in store.bases() if base.name not in used]
    except (PermissionError, RadclipdError) as error:
        typer.echo(f"unused bases are not listed: {error}", err=True)
        return []


def _describe_network(architecture: Mapping[str, Any]) -> dict[str, str]:
    return {
        "architecture": architecture.get("name", ""),
        "activation": "QuickGELU" if architecture.get("quickgelu") else "GELU",
    }


def _print_version(version: Mapping[str, Any]) -> None:
    """Print facts, then the gate's comparisons and the measures as tables."""
    learning: Mapping[str, Any] = version["card"].get("learning", {})
    typer.echo(f"version {version['number']}: {output.format_cell(version['name'])}")
    output.write_facts(_list_facts(version) | _list_learning_facts(learning))
    if comparisons := learning.get("comparisons"):
        typer.echo("\ngate: mean AUC of the version and of others on the same held-out cases")
        output.write_rows(COMPARISON_COLUMNS, map(_make_comparison_row, comparisons), output.Format.TABLE)
    if measures := measures_of(version["card"]):
        typer.echo("\nmeasures of each finding")
        output.write_rows(MEASURE_COLUMNS, measures, output.Format.TABLE)


def _list_facts(version: Mapping[str, Any]) -> dict[str, Any]:
    card, network = version["card"], _describe_network(version["card"].get("architecture", {}))
    thresholds = {f"{threshold:g}" for threshold in version["thresholds"].values()}
    each = ", ".join(f"{finding} {threshold:.3g}" for finding, threshold in version["thresholds"].items())
    return {
        "state": version["state"],
        "reason": version["reason"],  # the gate's verdict, or the reason of a person
        "next": describe_next_step(version["number"]) if _is_waiting(version) else "",
        "notice": version["notice"],
        "created": version["created_at"],
        "served": version["served_at"],
        "retired": version["retired_at"],
        "recipe": card.get("recipe"),
        "base": version["base"],
        "architecture": f"{network['architecture']}, {network['activation']}",
        "weights": f"SHA-256 {version['weights_sha256']}",
        "Device UID": version["device_uid"],
        **_list_scales(version["scales"]),
        "reference distribution": version["reference"],
        "calibration": card.get("calibration"),
        "threshold": f"{thresholds.pop()} for every finding" if len(thresholds) == 1 else each,
        "undetermined": f"{version['undetermined_margin']:g} log-odds below a threshold",
        "source": _join_words(card.get("source", {})),
        "libraries": _join_words(card.get("libraries", {})),
    }


def _list_scales(scales: Mapping[str, str]) -> dict[str, str]:
    """Return, for each scale, the findings that are told on it."""
    from pipeline.domain import FINDINGS, Scale

    told = {finding: scales.get(finding, Scale.RANK) for finding in FINDINGS}
    words = {Scale.PROBABILITY: "probabilities", Scale.BAND: "likelihood bands", Scale.RANK: "ranks (not learnt)"}
    return {words[scale]: ", ".join(finding for finding, its in told.items() if its == scale) for scale in Scale}


def _list_learning_facts(learning: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a learnt version; none of a zero-shot one."""
    if not learning:
        return {}
    return {
        "training set": f"{learning['films']} images of {learning['patients']} patients",
        "learnt": ", ".join(learning["findings"]),
        "not learnt": ", ".join(learning["kept"]),
        "log-loss": ", ".join(f"{name} {loss:.3f}" for name, loss in learning["log_loss"].items() if loss is not None),
        "notes": "; ".join(learning["notes"]),
    }


def _join_words(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _make_comparison_row(comparison: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        comparison["against"],
        "monitoring" if comparison["monitoring"] else "labels",
        *(comparison[name] for name in ("cases", "patients", "candidate", "other", "lower", "upper", "better")),
        ", ".join(comparison["worse"]),
    )


def _format_version(version: ModelVersion) -> str:
    notice = f"  {version.notice}" if version.notice else ""
    reason = f": {version.reason}" if version.reason else ""
    return f"version {version.number}  {version.name}  {version.state.value}{notice}{reason}"


def _make_verifier(config: Config) -> VerifyWeights:
    """Load a version as serving would, on the device that serves."""

    def verify_weights(version: ModelVersion) -> object:
        from adapters.ml.scorer import load_scorer

        return load_scorer(
            version,
            config.model.directory,
            device=config.model.device,
            batch_size=config.score.batch_size,
            threads=config.score.threads,
        )

    return verify_weights
