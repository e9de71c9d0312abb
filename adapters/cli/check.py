"""`radclipd check`: try every part of the installation, one line for each."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from adapters.cli.settings import config_of, config_path_of
from pipeline.errors import ConfigurationError, OutOfResources, RadclipdError

if TYPE_CHECKING:
    from adapters.app.compose import Parts
    from adapters.config.sections import Config
    from adapters.dicom.network.tls import TlsEndpoint

VERDICT_COLOURS = {"ok": "green", "warn": "yellow", "FAIL": "red"}
METRICS_SECONDS = 10.0
"""Longest scrape: the default timeout of Prometheus."""
SECONDS_PER_DAY = 86_400
RENEWAL = "put the new one into the file that [tls] names; the next connection uses it"
LISTENER_SECONDS = 5.0
"""Time limit of an association with our own listener."""


@dataclass(frozen=True, slots=True)
class PreflightCheck:
    """A check: its name, and a function that returns its result in words or raises."""

    name: str
    attempt: Callable[[Parts], str]


class PreflightWarning(Exception):
    """The result of a check that has passed, and needs a person soon. `hint`: what to do."""

    def __init__(self, found: str, *, hint: str) -> None:
        super().__init__(found)
        self.hint = hint


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(check)


def check(
    ctx: typer.Context,
    configuration: Annotated[bool, typer.Option("--configuration", help="Only read the configuration.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Compare every row with its file, and mend what is safe.")] = False,
) -> None:
    """Try everything the daemon needs.

    Files, disk, database, archive, model, GPU. Exit status 1 if a check fails.
    """
    if repair:
        _repair_store(ctx)
        return
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
        failed = [one.name for one in preflight_checks(config_path_of(ctx)) if not _run_check(one, parts)]
    raise typer.Exit(1 if failed else 0)


def _repair_store(ctx: typer.Context) -> None:
    """Print every difference of catalog and store. Exit status 1 where one could not be mended."""
    from adapters.app.compose import Parts
    from adapters.app.file_fetch import make_file_fetch
    from adapters.app.repair import StoreInspection

    with Parts(config_of(ctx)) as parts:
        inspection = StoreInspection(catalog=parts.catalog, images=parts.images, repair=True, file_fetch=make_file_fetch(parts))
        mended = [False, False]
        for found in inspection.run():
            mended[found.is_mended] = True
            _print_verdict("ok" if found.is_mended else "FAIL", found.kind, f"{found.subject}: {found.outcome}", "")
    if not any(mended):
        _print_verdict("ok", "store", "every row has its file, and every file its row", "")
    raise typer.Exit(1 if mended[False] else 0)


def _run_check(preflight_check: PreflightCheck, parts: Parts) -> bool:
    try:
        _print_verdict("ok", preflight_check.name, preflight_check.attempt(parts), "")
    except PreflightWarning as warning:
        _print_verdict("warn", preflight_check.name, str(warning), warning.hint)
    except RadclipdError as error:
        _print_verdict("FAIL", preflight_check.name, str(error), error.hint)
        return False
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _print_verdict("FAIL", preflight_check.name, f"{place}{error.strerror or error}", "may the service's user do this?")
        return False
    except Exception as error:  # every check prints a line, whatever fails
        _print_verdict(
            "FAIL", preflight_check.name, f"{type(error).__name__}: {error}", "this is a fault in radclipd; please report it"
        )
        return False
    return True


def _print_verdict(verdict: str, name: str, found: str, hint: str) -> None:
    mark = typer.style(f"{verdict:4}", fg=VERDICT_COLOURS[verdict])
    typer.echo(f"{mark} {name:16} {found}" + (f"  hint: {hint}" if hint else ""))


def _check_image_store(parts: Parts) -> str:
    from adapters.storage.folders import user_name

    images = parts.images
    images.probe_write()
    if foreign := next(images.unwritable_folders(), None):
        raise OutOfResources(
            f"image store {images.root}: {foreign} cannot be written by user {user_name()}",
            hint=f"chown -R {user_name()} {images.root}",
        )
    made = "" if images.root.is_dir() else "; the folder is made with the first image"
    return f"{images.root}: user {user_name()} wrote, read back and removed a probe file{made}"


def _check_disk(parts: Parts) -> str:
    free, guard = parts.images.free_bytes(), int(parts.config.storage.min_free)
    if free < guard:
        raise OutOfResources(
            f"{free / 2**30:.1f} GiB free, below storage.min_free of {guard / 2**30:.1f} GiB: the listener refuses images",
            hint="free disk space or lower storage.min_free",
        )
    warn = int(parts.config.storage.warn_free)
    found = f"{free / 2**30:.1f} GiB free; images are refused below {guard / 2**30:.1f} GiB"
    if free < warn:
        raise PreflightWarning(found, hint=f"free disk space: storage.warn_free is {warn / 2**30:.1f} GiB")
    return found


def _check_catalog(parts: Parts) -> str:
    from adapters.catalog import schema
    from adapters.config.types import sqlite_path

    if file := sqlite_path(parts.config.catalog.url):
        _require_folder(file.parent, "the folder of catalog.url")
        if file.is_dir():
            raise ConfigurationError(f"catalog.url names the folder {file}", hint="name the database's file in it")
    parts.catalog.probe_write()
    return f"opened and written to; schema {schema.head()}"


def _check_listener(parts: Parts) -> str:
    from adapters.app.listen import own_called_ae_title, own_host
    from adapters.dicom.network.identity import is_own_listener

    config, host, port = parts.config, parts.config.listener.host, parts.config.listener.port
    if config.metrics.enabled and port == config.metrics.port:
        raise ConfigurationError(f"listener.port and metrics.port are both {port}", hint="set metrics.port to a free one")
    error = _try_to_bind(host, port)
    if error is None:
        return f"{config.listener.ae_title} will listen on {host} port {port}, which is free"
    code = getattr(error, "errno", None)
    if code == errno.EACCES:
        return f"port {port} of {host} is for root to bind: start the daemon together with radclipd.socket"
    if code == errno.EADDRINUSE and is_own_listener(
        own_host(config),
        port,
        called_ae_title=own_called_ae_title(config),
        calling_ae_title=config.listener.ae_title,
        timeout_seconds=LISTENER_SECONDS,
    ):
        return f"radclipd answers as {own_called_ae_title(config)} on {host} port {port}"
    _refuse_address(host, port, error, section="listener", host_key="host")


def _try_to_bind(host: str, port: int) -> OSError | UnicodeError | None:
    """Return the error of a socket that is bound to an address and never listens; None where it can be bound."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # so that a daemon may bind the port meanwhile
        try:
            probe.bind((host, port))
        except (OSError, UnicodeError) as error:
            return error
    return None


def _refuse_address(
    host: str, port: int, error: OSError | UnicodeError, *, section: str, host_key: str, port_key: str = "port"
) -> NoReturn:
    from adapters.service.systemd import explain_bind_error

    message, hint = explain_bind_error(host, port, error, section=section, host_key=host_key, port_key=port_key)
    raise ConfigurationError(message, hint=hint) from error


def _check_archive(parts: Parts) -> str:
    archive = parts.config.archive
    try:
        socket.getaddrinfo(archive.host, archive.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(
            f"archive.host = {archive.host!r} is no address, and no name that this host resolves", hint="correct it, or the DNS"
        ) from error
    parts.archive.echo()
    answered = f"{archive.ae_title} at {archive.host}:{archive.port} answered C-ECHO{' over TLS' if archive.tls else ''}"
    shown = parts.archive.certificate
    if shown is not None and (left := (shown.ends_at - time.time()) / SECONDS_PER_DAY) < parts.config.tls.warn_days:
        raise PreflightWarning(
            f"{answered}; its certificate {shown.subject} ends in {left:.0f} days", hint="ask the archive's engineer for a new one"
        )
    return answered


def _check_tls(parts: Parts) -> str:
    """Check the files of [tls], and the way in: from this host through the TLS port."""
    from adapters.dicom.network.certificates import read_certificates

    config, endpoint = parts.config, parts.tls
    if endpoint is None:
        return "off: [tls] names no certificate"
    endpoint.load()
    own, *chain = read_certificates(endpoint.settings.certificate_file)
    _require_uses(parts.config, serves=own.serves, sends=own.sends)
    port = f"; {_try_tls_port(parts, endpoint, own.fingerprint)}" if config.listener.tls_port else ""
    soonest = min([own, *chain, *read_certificates(endpoint.settings.ca_file)], key=lambda one: one.not_after)
    found = f"certificate {own.subject} until {own.not_after:%Y-%m-%d}{port}"
    if (left := own.days_left()) < 0:
        raise ConfigurationError(f"certificate {own.subject} ended {-left:.0f} days ago", hint=RENEWAL)
    if (left := soonest.days_left()) < config.tls.warn_days:
        raise PreflightWarning(f"{found}; certificate {soonest.subject} ends in {left:.0f} days", hint=RENEWAL)
    return found


def _require_uses(config: Config, *, serves: bool, sends: bool) -> None:
    """Raise ConfigurationError where our certificate's extended key usage forbids a role that the configuration gives it."""
    for role, used, permitted in (
        ("serverAuth", bool(config.listener.tls_port), serves),
        ("clientAuth", config.archive.tls, sends),
    ):
        if used and not permitted:
            raise ConfigurationError(
                f"tls.certificate_file: its extended key usage lacks {role}",
                hint="ask for a certificate with serverAuth and clientAuth",
            )


def _try_tls_port(parts: Parts, endpoint: TlsEndpoint, fingerprint: str) -> str:
    """Send a C-ECHO to our own TLS port, with our own certificate on both sides; return the result in words."""
    from adapters.app.listen import own_called_ae_title, own_host
    from adapters.dicom.network.archive import ArchiveSettings, DicomArchive
    from adapters.dicom.network.tls import TlsEndpoint

    config, port = parts.config, parts.config.listener.tls_port
    if (error := _try_to_bind(config.listener.host, port)) is None:
        return f"port {port} is free"
    if getattr(error, "errno", None) != errno.EADDRINUSE:
        _refuse_address(config.listener.host, port, error, section="listener", host_key="host", port_key="tls_port")
    called = own_called_ae_title(config)
    settings = ArchiveSettings(
        ae_title=called,
        host=own_host(config),
        port=port,
        calling_ae_title=config.listener.ae_title,
        timeout_seconds=LISTENER_SECONDS,
    )
    try:
        DicomArchive(settings, TlsEndpoint(replace(endpoint.settings, peers={called: [f"sha256:{fingerprint}"]}))).echo()
    except RadclipdError as fault:
        raise ConfigurationError(
            f"listener.tls_port {port}: {fault}", hint="is the port radclipd's (ss -ltnp)? has the daemon read the configuration?"
        ) from fault
    return f"{called} answered C-ECHO over TLS on port {port}"


def _check_model(parts: Parts) -> str:
    from adapters.ml.scorer import ClipScorers

    config = parts.config
    _require_folder(config.model.directory, "model.directory")
    version = parts.require_serving()
    scorers = ClipScorers(config.model.directory, device=config.model.device, batch_size=1, threads=config.score.threads)
    scorers.load(version)
    notice = f"; {version.notice}" if version.notice else ""
    return f"version {version.number} ({version.name}) loaded, golden embedding as recorded{notice}"


def _check_activation_cache(parts: Parts) -> str:
    from adapters.app.metrics import activation_cache_bytes

    config = parts.config
    if not config.activation_cache.enabled:
        return "off: learning and re-scoring read the pixels"
    folder, limit = config.activation_cache.directory, int(config.activation_cache.max_size)
    _require_folder(folder, "activation_cache.directory")
    return f"{folder}: {activation_cache_bytes(config) / 2**30:.1f} of {limit / 2**30:.1f} GiB taken"


def _require_folder(folder: Path, key: str) -> None:
    """Raise ConfigurationError where the user of this process could not write to a folder of the configuration, or make it."""
    from adapters.storage.folders import find_folder_fault, user_name

    if fault := find_folder_fault(folder):
        raise ConfigurationError(
            f"{key} = {str(folder)!r}: {fault}", hint=f"name a folder that user {user_name()} can write, or make it so: chown"
        )


def _check_audit_repository(parts: Parts) -> str:
    if not parts.config.audit.syslog_host:
        return "no audit.syslog_host: audit events stay in the catalog"
    parts.audit_repository.send([])  # TLS in both directions, and its end
    return f"{parts.audit_repository.name} answers over TLS"


def _check_metrics(parts: Parts) -> str:
    from http.client import HTTPException
    from urllib.request import ProxyHandler, build_opener

    if not parts.config.metrics.enabled:
        return "off; metrics.enabled = true serves them to Prometheus"
    address, port = parts.config.metrics.address, parts.config.metrics.port
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    url = f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"
    error = _try_to_bind(address, port)
    if error is None:
        return f"{url} will answer when the dispatcher runs"
    if getattr(error, "errno", None) != errno.EADDRINUSE:
        _refuse_address(address, port, error, section="metrics", host_key="address")
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=METRICS_SECONDS) as answer:
            ours = b"radclipd_build_info" in answer.read()
    except (OSError, HTTPException):
        ours = False
    if not ours:
        raise ConfigurationError(f"another program has the port of {url}", hint="set metrics.port to a free one (ss -ltnp)")
    return f"{url} answers"


def _check_authorization(path: Path | None, parts: Parts) -> str:
    from adapters.config.sections import read_authorization

    name = parts.config.backfill.authorization_file
    if not name:
        return "no backfill.authorization_file: archives are read without a password"
    if not Path(name).is_absolute() and "CREDENTIALS_DIRECTORY" not in os.environ:
        return f"backfill.authorization_file = {name!r} is a systemd credential, which only its unit can read: not tried"
    read_authorization(parts.config, path)
    return f"backfill.authorization_file {name} can be read"


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


def preflight_checks(path: Path | None) -> tuple[PreflightCheck, ...]:
    """Return the checks in order. `path`: the file of the configuration, None for the default."""
    return (
        PreflightCheck("image store", _check_image_store),
        PreflightCheck("disk", _check_disk),
        PreflightCheck("catalog", _check_catalog),
        PreflightCheck("listener", _check_listener),
        PreflightCheck("tls", _check_tls),
        PreflightCheck("archive", _check_archive),
        PreflightCheck("model", _check_model),
        PreflightCheck("activation cache", _check_activation_cache),
        PreflightCheck("metrics", _check_metrics),
        PreflightCheck("audit repository", _check_audit_repository),
        PreflightCheck("authorization", partial(_check_authorization, path)),
        PreflightCheck("device", _check_device),
    )
