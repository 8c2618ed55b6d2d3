"""The one connection a leader lives on: direct, guarded, and ended by the server when it is
silent.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import Connection

from orchestrator.config import LeaderSettings
from orchestrator.errors import LeadershipRefused
from orchestrator.store import leadership
from orchestrator.store.encoding import ENCODING
from orchestrator.store.sql import explained, limit_transactions, options, run
from orchestrator.store.wire import Wired

SERVER_VERSION_MIN = 150000


def server_timeouts(settings: LeaderSettings) -> Mapping[str, int]:
    """Return the settings by which the server detects a dead leader, in milliseconds."""
    return {
        "idle_session_timeout": _ms(settings.idle_session_timeout_s),
        "idle_in_transaction_session_timeout": _ms(settings.idle_in_transaction_timeout_s),
        "statement_timeout": _ms(settings.statement_timeout_s),
        "lock_timeout": _ms(settings.lock_timeout_s),
        "client_connection_check_interval": _ms(settings.connection_check_interval_s),
        "tcp_user_timeout": _ms(settings.tcp_user_timeout_s),
    }


def open_session(dsn: str, settings: LeaderSettings, *, holder: str) -> Wired:
    """Connect directly and guard the session; raise `LeadershipRefused` where it must not lead."""
    timeouts = server_timeouts(settings)
    # The hot statements of the tick are fetch and move: nested loops over what unnest gives them.
    pins = {
        "jit": "off",
        "enable_seqscan": "off",
        "enable_material": "off",
        "plan_cache_mode": "force_generic_plan",
    }
    try:
        connection = Wired.connect(
            dsn,
            autocommit=True,
            connect_timeout=5,
            prepare_threshold=None,
            options=options({**timeouts, **pins}),
            client_encoding=ENCODING,
            application_name=f"orchestrator leader {holder}"[:63],
        )
    except psycopg.Error as error:
        if "unsupported startup parameter" in str(error):
            raise LeadershipRefused(_POOLER) from error
        raise explained(error) from error
    try:
        _guard(connection, timeouts)
        # Its own watchdog does the same, where it is not the process that is stopped.
        run(connection, limit_transactions(connection.info.server_version, settings.watchdog_s))
        connection.lay_wire()
    except BaseException:
        connection.close()
        raise
    return connection


_POOLER = (
    "a connection pooler stands between this replica and the server, and an advisory lock means "
    "nothing behind one: give the leader a direct DSN (database.url)"
)


def _guard(connection: Connection[Any], timeouts: Mapping[str, int]) -> None:
    guard = run(connection, leadership.guard(sorted(timeouts)))
    if guard.backend_pid != connection.info.backend_pid:
        raise LeadershipRefused(_POOLER)
    if guard.in_recovery:
        raise LeadershipRefused("this server is a standby: give the leader the primary's DSN")
    if guard.server_version < SERVER_VERSION_MIN:
        raise LeadershipRefused(
            f"PostgreSQL {guard.server_version // 10000} is too old: 15 or newer is needed"
        )
    for name, wanted in timeouts.items():
        found = int(guard.settings.get(name, -1))
        # Over a Unix socket, or where the server's system lacks it, tcp_user_timeout reads 0.
        if found != wanted and not (name == "tcp_user_timeout" and found == 0):
            raise LeadershipRefused(
                f"{name} is {found} ms on this session, not {wanted}: something between overrides "
                "it; give the leader a direct DSN"
            )


def open_beside(dsn: str, name: str, settings: Mapping[str, object]) -> Connection[Any]:
    """Connect for work beside that of the leader's session, which must not wait for it.

    Raises one of our errors where that fails.
    """
    try:
        return psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=5,
            options=options(settings),
            client_encoding=ENCODING,
            application_name=f"orchestrator {name}",
        )
    except psycopg.Error as error:
        raise explained(error) from error


def hang_up(connection: Connection[Any] | None) -> None:
    """End a connection that another thread waits on, by shutting down its socket."""
    if connection is None or connection.closed:
        return
    with contextlib.suppress(OSError, psycopg.Error):
        end = socket.socket(fileno=os.dup(connection.fileno()))
        with end:
            end.shutdown(socket.SHUT_RDWR)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
