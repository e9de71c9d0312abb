"""Users of the desk, and the tokens of their programs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from adapters.catalog.parameters import sanitise_text
from adapters.catalog.tables import api_tokens, users
from pipeline.domain import User, UserRole


class SqlUsers:
    """`ports.desk.Users`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, name: str) -> User | None:
        row = self._connection.execute(select(users).where(users.c.name == sanitise_text(name, 64))).mappings().one_or_none()
        return _build_user(row) if row else None

    def all(self) -> list[User]:
        return [_build_user(row) for row in self._connection.execute(select(users).order_by(users.c.name)).mappings()]

    def add(self, user: User) -> None:
        self._connection.execute(insert(users).values(name=user.name, **_build_values(user)))

    def put(self, user: User) -> None:
        self._connection.execute(update(users).where(users.c.name == user.name).values(**_build_values(user)))

    def find_by_token(self, token_sha256: str) -> User | None:
        query = select(users).join(api_tokens, api_tokens.c.user_name == users.c.name)
        row = self._connection.execute(query.where(api_tokens.c.token_sha256 == token_sha256)).mappings().one_or_none()
        return _build_user(row) if row else None

    def add_token(self, name: str, token_sha256: str) -> None:
        self._connection.execute(insert(api_tokens).values(user_name=name, token_sha256=token_sha256))

    def drop_tokens(self, name: str) -> int:
        return self._connection.execute(delete(api_tokens).where(api_tokens.c.user_name == name)).rowcount


def _build_user(row: RowMapping) -> User:
    return User(
        name=row["name"],
        role=UserRole(row["role"]),
        password_hash=row["password_hash"],
        session_key=row["session_key"],
        disabled=row["disabled"],
    )


def _build_values(user: User) -> dict[str, Any]:
    return {
        "role": user.role.value,
        "password_hash": user.password_hash,
        "session_key": user.session_key,
        "disabled": user.disabled,
    }
