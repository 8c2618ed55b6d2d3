"""The encoding of text, of databases and of sessions: UTF-8, because texts of users know no bounds.

What an org is called, or what a handler's error says, cannot be stored in a database of another
encoding at any time, and the same is true of a session whose client is said to speak another one:
an end that cannot be told is tried again for ever.
"""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, Connection

from orchestrator.errors import ConfigError

#: Of every session of ours, whatever the environment or the DSN says.
ENCODING = "UTF8"


def demand(connection: Connection[Any] | AsyncConnection[Any]) -> None:
    """Return if the database of `connection` can hold every text; raise `ConfigError` if not."""
    found = told(connection)
    if found not in (None, ENCODING):
        raise ConfigError(
            f"the database has the encoding {found}, which cannot hold every text: use one that was"
            f" created as {ENCODING} (createdb --encoding={ENCODING} --template=template0 NAME)"
        )


def told(connection: Connection[Any] | AsyncConnection[Any]) -> str | None:
    """Return the encoding of the database; None where a pooler does not pass it on."""
    return connection.info.parameter_status("server_encoding")
