"""Database roles made by `grant`, and connections as them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import psycopg
from psycopg import sql

from orchestrator.store.privileges import DatabaseRole
from orchestrator.store.roles import grant
from tests.conftest import Server

SINGLE = [role for role in DatabaseRole if role is not DatabaseRole.OWNER]


def named(role: str) -> str:
    """Return a name that has to be quoted, for a role of this kind."""
    return f'the "{role}"'


def dsn_of(dsn: str, role: str) -> str:
    """Return `dsn` as the database role of this kind."""
    return dsn.replace("//postgres@", f"//{quote(named(role), safe='')}@")


@contextmanager
def granted(dsn: str, server: Server, *roles: DatabaseRole, harden: bool = False) -> Iterator[str]:
    """Grant a role of each kind; drop them at the end, for they belong to the whole server."""
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for role in roles:
                assert grant(connection, named(role), [role], harden=harden, actor="test") == []
        yield dsn
    finally:
        drop(dsn, server, *map(named, roles))


def drop(dsn: str, server: Server, *names: str) -> None:
    """Drop database roles with all they own and hold."""
    for address in (dsn, server.dsn):
        with psycopg.connect(address, autocommit=True) as connection:
            for name in names:
                found = connection.execute("select from pg_roles where rolname = %s", [name])
                if found.fetchone() is None:
                    continue
                role = sql.Identifier(name)
                if address == dsn:
                    statement = sql.SQL("reassign owned by {} to postgres; drop owned by {}")
                    connection.execute(statement.format(role, role))
                else:
                    connection.execute(sql.SQL("drop role {}").format(role))
