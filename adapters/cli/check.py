"""`radclipd check`: try every part of the installation, one line for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.settings import config_of
from pipeline.errors import ConfigurationError, OutOfResources, RadclipdError

if TYPE_CHECKING:
    from adapters.app.compose import Parts

METRICS_SECONDS = 10.0
"""Longest scrape: the default timeout of Prometheus."""


@dataclass(frozen=True, slots=True)
class PreflightCheck:
    """A check: its name, and a function that returns its result in words or raises."""

    name: str
    attempt: Callable[[Parts], str]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(check)


def check(
    ctx: typer.Context,
    configuration: Annotated[bool, typer.Option("--configuration", help="Only read the configuration.")] = False,
) -> None:
    """Try everything the daemon needs.

    Files, disk, database, archive, model, GPU. Exit status 1 if a check fails.
    """
    try:
        config = config_of(ctx)
    except ConfigurationError as error:
        _print_verdict("FAIL", "configuration", str(error), error.hint)
        raise typer.Exit(1) from None
    _print_verdict("ok", "configuration", "read; every key is known", "")
    if configuration:
        return
    from adapters.app.compose import Parts

    with Parts(config) as parts:
        failed = [one.name for one in PREFLIGHT_CHECKS if not _run_check(one, parts)]
    raise typer.Exit(1 if failed else 0)


def _run_check(preflight_check: PreflightCheck, parts: Parts) -> bool:
    try:
        _print_verdict("ok", preflight_check.name, preflight_check.attempt(parts), "")
    except RadclipdError as error:
        _print_verdict("FAIL", preflight_check.name, str(error), error.hint)
        return False
    except Exception as error:  # every check prints a line, whatever fails
        _print_verdict(
            "FAIL", preflight_check.name, f"{type(error).__name__}: {error}", "this is a fault in radclipd; please report it"
        )
        return False
    return True


def _print_verdict(verdict: str, name: str, found: str, hint: str) -> None:
    mark = typer.style(f"{verdict:4}", fg="green" if verdict == "ok" else "red")
    typer.echo(f"{mark} {name:16} {found}" + (f"  hint: {hint}" if hint else ""))


def _check_image_store(parts: Parts) -> str:
    images = parts.images
    probe = images.write(b"radclipd check: a probe file, removed at once")
    try:
        images.read(probe)
    finally:
        images.remove(probe)
    return f"{images.root}: a probe file was written, read back and removed"


def _check_disk(parts: Parts) -> str:
    free, guard = parts.images.free_bytes(), int(parts.config.storage.min_free)
    if free < guard:
        raise OutOfResources(
            f"{free / 2**30:.1f} GiB free, below storage.min_free of {guard / 2**30:.1f} GiB: the listener refuses images",
            hint="free disk space or lower storage.min_free",
        )
    return f"{free / 2**30:.1f} GiB free; images are refused below {guard / 2**30:.1f} GiB"


def _check_catalog(parts: Parts) -> str:
    from adapters.catalog import schema

    parts.catalog.probe_write()
    return f"opened and written to; schema {schema.head()}"


def _check_archive(parts: Parts) -> str:
    parts.archive.echo()
    archive = parts.config.archive
    return f"{archive.ae_title} at {archive.host}:{archive.port} answered C-ECHO"


def _check_model(parts: Parts) -> str:
    from adapters.ml.scorer import ClipScorers

    config, version = parts.config, parts.require_serving()
    scorers = ClipScorers(config.model.directory, device=config.model.device, batch_size=1, threads=config.score.threads)
    scorers.load(version)
    notice = f"; {version.notice}" if version.notice else ""
    return f"version {version.number} ({version.name}) loaded, golden embedding as recorded{notice}"


def _check_activation_cache(parts: Parts) -> str:
    from tempfile import TemporaryFile

    from adapters.app.metrics import activation_cache_bytes

    config = parts.config
    if not config.activation_cache.enabled:
        return "off: learning and re-scoring read the pixels"
    folder, limit = config.activation_cache.directory, int(config.activation_cache.max_size)
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as probe:
            probe.write(b"radclipd check: a probe file, removed at once")
    except OSError as error:
        raise OutOfResources(
            f"{folder} cannot be written: {error.strerror}", hint="make it the daemon's, or set activation_cache.enabled = false"
        ) from error
    return f"{folder}: {activation_cache_bytes(config) / 2**30:.1f} of {limit / 2**30:.1f} GiB taken"


def _check_metrics(parts: Parts) -> str:
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import ProxyHandler, build_opener

    if not parts.config.metrics.enabled:
        return "off; metrics.enabled = true serves them to Prometheus"
    address, port = parts.config.metrics.address, parts.config.metrics.port
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    url = f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=METRICS_SECONDS) as answer:
            ours = b"radclipd_build_info" in answer.read()
    except (HTTPError, HTTPException, TimeoutError):
        ours = False
    except URLError:
        return f"{url} will answer when the dispatcher runs"
    if not ours:
        raise ConfigurationError(f"another program answers at {url}", hint="set metrics.port to a free one")
    return f"{url} answers"


def _check_device(parts: Parts) -> str:
    import torch

    from adapters.ml.distributed.ranks import choose_devices

    config = parts.config
    cuda = torch.cuda.is_available()
    if config.model.device.startswith("cuda") and not cuda:
        raise ConfigurationError(
            f'model.device is "{config.model.device}" but torch sees no CUDA device',
            hint='install a CUDA build of torch and the driver, or set model.device = "auto"',
        )
    several = len(choose_devices(config.model.device, config.learn.devices))
    learning = f"; learning on {several} {'GPUs' if cuda else 'processes'}" if several > 1 else ""
    if cuda:
        free, total = torch.cuda.mem_get_info()
        return f"{torch.cuda.get_device_name()}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB free{learning}"
    return f"no GPU; scoring on the CPU with {config.score.threads or torch.get_num_threads()} threads{learning}"


PREFLIGHT_CHECKS = (
    PreflightCheck("image store", _check_image_store),
    PreflightCheck("disk", _check_disk),
    PreflightCheck("catalog", _check_catalog),
    PreflightCheck("archive", _check_archive),
    PreflightCheck("model", _check_model),
    PreflightCheck("activation cache", _check_activation_cache),
    PreflightCheck("metrics", _check_metrics),
    PreflightCheck("device", _check_device),
)
