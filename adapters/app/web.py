"""`radclipd web`: the process of the desk. It decodes films in a process of their own, and loads no torch."""

from __future__ import annotations

import os
import secrets
import subprocess
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from adapters.app import policies
from adapters.app.command_line import command_line
from adapters.app.compose import Parts
from adapters.app.metrics import disk_usage
from adapters.app.report_policies import report_policy
from adapters.service import systemd
from adapters.service.health import notify_systemd
from adapters.service.signals import StopSignal, wait_for_stop
from pipeline.errors import ConfigurationError, FatalError, OutOfResources, PermanentError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from adapters.config.sections import Config
    from pipeline.domain import PixelSpacing, StoredFile, StoredInstance

SECRET_BYTES = 32
SECRET_NAME = "secret"
DECODE_PROCESSES = 2
"""A film that is looked at, and one that is prefetched."""
STOP_SECONDS = 5
"""Time for open answers at a stop; a stream of events has no end of its own."""
VERB_SECONDS = 120.0
"""Time for a verb: one that verifies weights loads them."""
OWNER_ONLY = 0o600

log = structlog.get_logger("radclipd.web")


def serve_desk(config: Config, path: Path | None) -> None:
    """Serve until a signal to stop. FatalError where the address is not available."""
    with Parts(config) as parts:
        server = _build_server(build_desk(parts, path), config)
        with (
            StopSignal() as stop,
            notify_systemd(systemd.Notifier(), [parts.catalog.probe_write, partial(_probe_server, server)], lambda: "serving"),
        ):
            log.info("desk", address=config.web.host, port=config.web.port, tls=config.web.has_tls)
            thread = threading.Thread(target=_run_server, args=(server, stop), name="desk")
            thread.start()
            wait_for_stop(stop)
            server.should_exit = True
            thread.join()
        if not server.started:
            raise FatalError(
                f"the desk cannot listen on {config.web.host} port {config.web.port}",
                hint="another process has it, or the address is not of this host: web.host and web.port",
            )


def build_desk(parts: Parts, path: Path | None) -> FastAPI:
    """Return the desk's application on these parts. `path`: configuration file of the verbs that the desk runs."""
    from adapters.web.application import build_application
    from adapters.web.film_bytes import FilmCache
    from adapters.web.parts import DeskParts, DeskSettings, DeskTools
    from adapters.web.sessions import SessionCookies

    config = parts.config
    settings = DeskSettings(
        chest=policies.chest_policy(config),
        worklist=policies.worklist_policy(config),
        report=report_policy(config),
        readings=policies.reading_policy(config),
        has_tls=config.web.has_tls,
    )
    reader = parts.new_decode_pool(DECODE_PROCESSES)
    reader.start()
    parts.close_at_end(reader.close)
    films = FilmCache(reader, max_bytes=int(config.web.film_cache), read_spacing=partial(_read_spacing, parts))
    parts.close_at_end(films.close)
    return build_application(
        DeskParts(
            catalog=parts.catalog,
            films=films,
            cookies=SessionCookies(read_secret(config.web.directory), idle_seconds=config.web.session_idle_seconds),
            settings=settings,
            tools=DeskTools(
                read_report=partial(_read_report, parts),
                disk_usage=partial(disk_usage, config, parts.images),
                run_verb=partial(_run_verb, path),
            ),
        )
    )


def _read_spacing(parts: Parts, instance: StoredInstance) -> PixelSpacing | None:
    from adapters.dicom.image.spacing import read_pixel_spacing

    return read_pixel_spacing(parts.images.read(instance.file))


def _read_report(parts: Parts, file: StoredFile) -> list[str]:
    from adapters.dicom.sr.text import lines_of_file

    return list(lines_of_file(parts.images.read(file)))


def _run_verb(path: Path | None, words: Sequence[str]) -> str:
    """Run a verb in a process of its own: one that verifies weights loads torch, and the desk does not."""
    done = subprocess.run([*command_line(path), *words], capture_output=True, text=True, check=False, timeout=VERB_SECONDS)
    if done.returncode:
        message, _, rest = done.stderr.strip().rpartition("radclipd: ")[2].partition("\n")
        raise PermanentError(message or f"the verb ended with status {done.returncode}", hint=rest.removeprefix("hint: "))
    return done.stdout


def read_secret(folder: Path) -> bytes:
    """Return the secret that signs sessions; make it where there is none. OutOfResources where the folder refuses it."""
    path = folder / SECRET_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _write_secret(path)
        content = path.read_bytes()
    except OSError as error:
        raise OutOfResources(f"{path}: {error.strerror}", hint="web.directory must be writable by the daemon") from error
    if len(content) != SECRET_BYTES:
        raise ConfigurationError(f"{path} holds no secret of {SECRET_BYTES} bytes", hint="remove the file; every session ends then")
    return content


def _write_secret(path: Path) -> None:
    """Write a new secret, at once and whole: two processes that start together end with the same one."""
    temporary = path.with_name(f"{SECRET_NAME}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(SECRET_BYTES))
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        log.debug("another process has made the secret")
    finally:
        temporary.unlink()


def _build_server(application: FastAPI, config: Config) -> uvicorn.Server:
    import uvicorn

    wanted = config.web
    settings = uvicorn.Config(
        application,
        host=wanted.host,
        port=wanted.port,
        ssl_certfile=wanted.tls_certificate_file or None,
        ssl_keyfile=wanted.tls_key_file or None,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=wanted.behind_tls_proxy,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    return uvicorn.Server(settings)


def _run_server(server: uvicorn.Server, stop: StopSignal) -> None:
    try:
        server.run()
    except SystemExit:  # uvicorn's answer to an address that is in use; its log names the error
        log.debug("the server has ended before it began")
    finally:
        stop.set()


def _probe_server(server: uvicorn.Server) -> None:
    if not server.started:
        raise OutOfResources("the desk does not listen yet")
