"""Errors of the drivers, translated: transient or a fault, without passwords and without patient data."""

from __future__ import annotations

import os
import pwd
import re

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError, TimeoutError

from pipeline.errors import CatalogFault, OutOfResources

TRANSIENT_SQLSTATES = ("08", "25006", "40", "53", "55", "57", "58")
"""Classes of PostgreSQL's SQLSTATE: connection exception, read-only transaction (the server has become a standby), transaction
rollback (serialization, deadlock), insufficient resources, object not in prerequisite state (lock), operator intervention, system
error. https://www.postgresql.org/docs/current/errcodes-appendix.html."""
TRANSIENT_SQLITE_CODES = {3, 5, 6, 7, 8, 10, 13, 14, 15}
"""SQLITE_PERM, BUSY, LOCKED, NOMEM, READONLY, IOERR, FULL, CANTOPEN, PROTOCOL (primary result codes)."""
PRIMARY_CODE_MASK = 0xFF
SECRET_URL_OPTIONS = ("password", "sslpassword", "passfile")
CHECK_PERMISSIONS = "run it as the user that the catalog belongs to, and look at the folder's permissions"

REMEDIES = {
    "42501": "the role needs CREATE in the schema: make it the owner of the database",
    "3D000": "make the database first: createdb",
    "28": "the role or its password is not what the server expects: catalog.url",
    "55P03": "another session holds a lock on these tables: try again when it has ended",
    14: CHECK_PERMISSIONS,
    8: "run it as the user that the catalog belongs to",
}
"""By SQLSTATE (or its class) or SQLite's primary result code."""
CONNECTION_REMEDIES = (
    (
        r"peer.{0,3}authenti|authenti\w*.{0,12}peer",
        "peer authentication admits system user {user} as role {user} only: run it as the role's user, name that role in the URL,"
        " or give host and password",
    ),
    (r"password authentication|no password supplied", "the role or its password is not what the server expects: catalog.url"),
    (r"no pg_hba.conf entry", "the server admits neither this host nor this role: add a line to its pg_hba.conf"),
    (r"database \S+ does not exist", "make the database first: createdb"),
    (r"role \S+ does not exist", "make the role first: createuser"),
    (r"failed to resolve|could not translate host name", "correct the host in catalog.url, or the DNS"),
)
"""By the message of an attempt to connect, for which libpq gives no SQLSTATE."""
DEFAULT_REMEDY = "is the database up, its disk not full, and no other program holding its lock?"


def redacted_url(url: URL) -> str:
    """Return the URL as text without passwords, those in its options included."""
    return url.difference_update_query(SECRET_URL_OPTIONS).render_as_string(hide_password=True)


def is_transient(error: SQLAlchemyError) -> bool:
    """Say whether the database may take the same statement later."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, TimeoutError)  # of the pool
    if error.connection_invalidated:
        return True
    code = error_code(error)
    if isinstance(code, str):
        return code.startswith(TRANSIENT_SQLSTATES)
    if isinstance(code, int):
        return code in TRANSIENT_SQLITE_CODES
    return type(error.orig).__name__ == "OperationalError"  # psycopg: no server was reached, so there is no SQLSTATE


def error_code(error: SQLAlchemyError) -> str | int | None:
    """Return PostgreSQL's SQLSTATE or SQLite's primary result code; None where the error has neither."""
    orig = getattr(error, "orig", None)
    sqlite = getattr(orig, "sqlite_errorcode", None)
    if sqlite is not None:
        return int(sqlite) & PRIMARY_CODE_MASK
    sqlstate = getattr(orig, "sqlstate", None)
    return None if sqlstate is None else str(sqlstate)


def driver_message(error: SQLAlchemyError) -> str:
    """Return the first line of the driver's message. Statement, parameters and details may quote a header and are left out."""
    words = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    return words.strip().splitlines()[0] if words.strip() else type(error).__name__


def find_remedy(error: SQLAlchemyError) -> str:
    """Return the hint for this error."""
    code = error_code(error)
    if code is None:
        words = str(error)
        for pattern, remedy in CONNECTION_REMEDIES:
            if re.search(pattern, words, re.IGNORECASE):
                return remedy.format(user=_name_user())
    found = REMEDIES.get(code) if code is not None else None
    return found or (REMEDIES.get(code[:2]) if isinstance(code, str) else None) or DEFAULT_REMEDY


def catalog_fault(url: URL, error: SQLAlchemyError) -> CatalogFault:
    """Return the error for a statement that the catalog refuses."""
    code = error_code(error)
    reason = type(getattr(error, "orig", None) or error).__name__ + (f" {code}" if code is not None else "")
    if isinstance(error, (IntegrityError, ProgrammingError)):  # they name columns and constraints; the words of others quote values
        reason = driver_message(error)
    return CatalogFault(f"the catalog {redacted_url(url)} refuses a statement: {reason}", hint=find_remedy(error))


def catalog_unavailable(url: URL, error: SQLAlchemyError) -> OutOfResources:
    """Return the error for a catalog that cannot be used now."""
    return OutOfResources(f"the catalog {redacted_url(url)} cannot be used now: {driver_message(error)}", hint=find_remedy(error))


def _name_user() -> str:
    """Name the system user of this process, which a server sees on its socket."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
