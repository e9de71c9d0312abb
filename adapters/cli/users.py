"""`radclipd users`: the people who log in at the desk."""

from __future__ import annotations

import getpass
import sys
from enum import StrEnum
from typing import Annotated

import typer

from adapters.cli import query
from adapters.cli.extras import require_extra
from adapters.cli.output import CsvFlag, JsonFlag, RawFlag, TableFlag
from adapters.cli.settings import parts_of
from pipeline.errors import PermanentError


class RoleName(StrEnum):
    """`pipeline.domain.UserRole`, for the command line."""

    VIEWER = "viewer"
    READER = "reader"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the user: letters, digits and . @ - _")]
StdinFlag = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]

users = typer.Typer(help="Users of the desk: add, list, disable, reset, token.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(users, name="users")


@users.command()
def add(
    ctx: typer.Context,
    name: NameArgument,
    role: Annotated[RoleName, typer.Option(help="What the user may do.")] = RoleName.VIEWER,
    password_stdin: StdinFlag = False,
) -> None:
    """Add a user; the password is asked for.

    A viewer looks, a reader labels, an operator retries and promotes, an administrator does everything.
    """
    require_extra("web")
    from adapters.web.passwords import hash_password
    from pipeline.domain import UserRole
    from pipeline.users import add_user

    hashed = hash_password(_ask_password(password_stdin))
    with parts_of(ctx) as parts:
        add_user(name, UserRole(role.value), hashed, catalog=parts.catalog, source=getpass.getuser())
    typer.echo(f"user {name} added as {role.value}")


@users.command("list")
def list_(ctx: typer.Context, table: TableFlag = False, csv: CsvFlag = False, raw: RawFlag = False, json: JsonFlag = False) -> None:
    """List the users with their roles."""
    query.query(ctx, "SELECT name, role, disabled, created_at FROM v_users ORDER BY name", table=table, csv=csv, json=json, raw=raw)


@users.command()
def disable(ctx: typer.Context, name: NameArgument) -> None:
    """Refuse a user from now on; sessions and tokens end, labels stay."""
    from pipeline.users import disable_user

    with parts_of(ctx) as parts:
        disable_user(name, catalog=parts.catalog, source=getpass.getuser())
    typer.echo(f"user {name} disabled")


@users.command()
def reset(ctx: typer.Context, name: NameArgument, password_stdin: StdinFlag = False) -> None:
    """Give a user another password, and let a disabled user in again."""
    require_extra("web")
    from adapters.web.passwords import hash_password
    from pipeline.users import reset_password

    hashed = hash_password(_ask_password(password_stdin))
    with parts_of(ctx) as parts:
        reset_password(name, hashed, catalog=parts.catalog, source=getpass.getuser())
    typer.echo(f"user {name} has another password; all sessions of the user have ended")


@users.command()
def token(ctx: typer.Context, name: NameArgument) -> None:
    """Make a token for programs and print it once.

    Programs send it as "Authorization: Bearer TOKEN" to /api/v1.
    """
    from pipeline.users import make_token

    with parts_of(ctx) as parts:
        made = make_token(name, catalog=parts.catalog, source=getpass.getuser())
    typer.echo(made)


def _ask_password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    if not sys.stdin.isatty():
        raise PermanentError("there is no terminal to ask for a password", hint="--password-stdin")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
