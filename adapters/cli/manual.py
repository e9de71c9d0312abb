"""`radclipd manual` and `radclipd completion`: the manual page and the completion scripts, from the same source as the help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from importlib.metadata import version as installed_version
from typing import Annotated, Any

import typer

PROGRAM = "radclipd"
COMPLETE_VARIABLE = "_RADCLIPD_COMPLETE"
"""Environment variable in which a completion script asks for words."""
FILES = (
    (
        "/etc/radclipd/radclipd.toml",
        "The configuration. Every key, with its default and meaning: share/radclipd/deploy/radclipd.toml.",
    ),
    ("/var/lib/radclipd", "Catalog, images, models and activations, where the configuration names no other folder."),
)
ENVIRONMENT = (
    ("RADCLIPD_CONFIG", "The configuration file; --config takes precedence."),
    ("RADCLIPD_SECTION__KEY", "The key in this section of the configuration, in place of the file's."),
)
EXIT_STATUS = (
    ("0", "Done."),
    ("1", "Refused or failed; standard error names the fault and the remedy."),
    ("2", "The command line is wrong."),
    ("75", "Failed for now: a later attempt may succeed."),
    ("78", "The configuration, the schema or the weights do not allow a start."),
)
ZSH_FIRST_CALL = f'[ "$funcstack[1]" != _{PROGRAM} ] || _{PROGRAM}_completion "$@"'
"""zsh runs a file of its function path at the first completion: the file has to complete then, too, not only to define how."""
Definitions = Sequence[tuple[str, str]]


class Shell(StrEnum):
    """Shells with completion."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(manual)
    app.command()(completion)


def manual(ctx: typer.Context) -> None:
    """Print the manual page: radclipd manual | man -l -."""
    for line in write_manual(ctx.find_root().command):
        typer.echo(line)


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print the script that completes words in a shell."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # typer re-exports it

    typer.echo(get_completion_script(prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, shell=shell.value))
    if shell is Shell.ZSH:
        typer.echo(ZSH_FIRST_CALL)


def write_manual(root: Any) -> Iterator[str]:
    """Yield the lines of a manual page, in the language of man(7). `root`: the command with every verb."""
    yield f'.TH RADCLIPD 1 "" "radclipd {installed_version(PROGRAM)}" "User Commands"'
    yield from (".SH NAME", escape_roff(f"{PROGRAM} - {_get_help(root).splitlines()[0]}"))
    yield from (".SH SYNOPSIS", f".B {PROGRAM}", r"[\fIoptions\fR] \fIverb\fR [\fIarguments\fR]")
    yield from (".SH OPTIONS", *_write_parameters(root, PROGRAM))
    yield ".SH VERBS"
    for path, command in walk_verbs(root):
        yield from _write_verb(path, command)
    for title, definitions in (("EXIT STATUS", EXIT_STATUS), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        yield from (f".SH {title}", *_write_definitions(definitions))


def walk_verbs(command: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each verb below a command, as its words and its command; a group that is a verb itself comes before its own."""
    for name, below in command.commands.items():
        path = (*above, name)
        is_group = bool(getattr(below, "commands", None))
        if not is_group or below.invoke_without_command:
            yield path, below
        if is_group:
            yield from walk_verbs(below, path)


def _write_verb(path: tuple[str, ...], command: Any) -> Iterator[str]:
    context = command.make_context(" ".join((PROGRAM, *path)), [], resilient_parsing=True)
    yield f".SS {escape_roff(' '.join((context.info_name, *command.collect_usage_pieces(context))))}"
    for paragraph in _get_help(command).split("\n\n"):
        yield from (escape_roff(" ".join(paragraph.split())), ".PP")
    yield from _write_parameters(command, context.info_name)


def _write_parameters(command: Any, name: str) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    yield from _write_definitions([record for record in records if record is not None and not record[0].startswith("--help")])


def _write_definitions(definitions: Definitions) -> Iterator[str]:
    for term, description in definitions:
        yield from (".TP", rf"\fB{escape_roff(term)}\fR", escape_roff(" ".join(description.split())))


def _get_help(command: Any) -> str:
    return str(command.help or command.short_help or "").strip()


def escape_roff(text: str) -> str:
    """Return text that groff prints as it is: no escape, no request at the start of a line, hyphens that can be searched for."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped
