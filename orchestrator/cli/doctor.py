"""`doctor`: whether this database can carry replicas and workers, and what to do if not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer

from orchestrator.cli import output
from orchestrator.cli.setup import Setup
from orchestrator.cli.verb import AsJson, verb
from orchestrator.errors import OrchestratorError

if TYPE_CHECKING:
    from psycopg import Connection

    from orchestrator.store.status import Schema, Server

VERSION_MIN = 150000
# The newest major version the tests run on.
VERSION_TESTED = 18
# Nothing here trusts a client's clock; but a producer that computes run_at does.
SKEW_MAX = timedelta(seconds=2)
# A replica needs a connection for each queue, one to stand and one for chores; a worker a few.
HEADROOM_MIN = 20
_LISTEN_TIMEOUT_S = 2.0
_CHANNEL = "orchestrator_doctor"


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the examination; `advice` says what to do unless it is ok."""

    name: str
    verdict: Verdict
    found: str
    advice: str | None = None


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    verb(app, "doctor", "orchestrator doctor", "orchestrator doctor --json")(doctor)


def doctor(setup: Setup, as_json: AsJson = False) -> None:
    """Check whether the database is fit; exit 1 if anything fails."""
    with setup.database() as dsn:
        checks = list(_examine(setup, dsn))
    if as_json:
        output.document({"checks": checks})
    else:
        for check in checks:
            advice = f": {check.advice}" if check.advice else ""
            output.say(f"{check.verdict:<5} {check.name:<18} {check.found}{advice}")
    failed = sum(check.verdict is Verdict.FAIL for check in checks)
    if failed:
        raise typer.Exit(1)


def _examine(setup: Setup, dsn: str) -> Iterator[Check]:
    from orchestrator.store import status
    from orchestrator.store.sql import run

    with setup.connect(dsn) as connection:
        found = encoding(connection)
        yield found
        if found.verdict is Verdict.FAIL:
            # Nothing below can be read for certain.
            return
        asked_at = datetime.now(UTC)
        server: Server = run(connection, status.server())
        answered_at = datetime.now(UTC)
        yield version(server.version, server.version_text)
        yield writable(server)
        yield schema(run(connection, status.schema()))
        yield pooler(connection.info.backend_pid, server.backend_pid)
        yield clock(server.clock, asked_at, answered_at)
        yield autovacuum(server)
        yield headroom(server)
        yield _listens(connection)
    yield from _leads(setup, dsn)


def encoding(connection: Connection[Any]) -> Check:
    """Judge the database's encoding; a pooler may not tell it."""
    from orchestrator.store.encoding import ENCODING, demand, told

    found = told(connection)
    if found is None:
        return Check("encoding", Verdict.WARN, "not told", f"see that it is {ENCODING}")
    try:
        demand(connection)
    except OrchestratorError as error:
        return Check("encoding", Verdict.FAIL, str(error))
    return Check("encoding", Verdict.OK, found)


def version(number: int, text: str) -> Check:
    """Judge the server's version, given as PostgreSQL counts: 150004."""
    found = f"PostgreSQL {text}"
    if number < VERSION_MIN:
        return Check("version", Verdict.FAIL, found, "15 or newer is needed: upgrade the server")
    if number // 10000 > VERSION_TESTED:
        advice = f"newer than {VERSION_TESTED}, the newest this version was tested on"
        return Check("version", Verdict.WARN, found, advice)
    return Check("version", Verdict.OK, found)


def writable(server: Server) -> Check:
    """Judge whether the server takes writes."""
    if server.in_recovery:
        return Check("writable", Verdict.FAIL, "a standby", "use the primary's DSN")
    if server.read_only:
        advice = "turn default_transaction_read_only off for this role or database"
        return Check("writable", Verdict.FAIL, "transactions are read-only", advice)
    return Check("writable", Verdict.OK, "a primary that takes writes")


def schema(found: Schema) -> Check:
    """Judge the schema."""
    try:
        found.demand()
    except OrchestratorError as error:
        return Check("schema", Verdict.FAIL, str(error))
    return Check("schema", Verdict.OK, f"at {found.found[-1]}")


def pooler(announced_pid: int, answering_pid: int) -> Check:
    """Judge, by the backend that was announced and the one that answered, who is in between."""
    if announced_pid == answering_pid:
        return Check("direct connection", Verdict.OK, "no pooler in between")
    advice = "fine for producers and workers (worker.listen = false); give replicas a direct DSN"
    return Check("direct connection", Verdict.WARN, "a connection pooler is in between", advice)


def clock(server: datetime, asked_at: datetime, answered_at: datetime) -> Check:
    """Judge how far this machine's clock is from the server's, the round trip allowed for."""
    skew = max(asked_at - server, server - answered_at, timedelta(0))
    if skew > SKEW_MAX:
        found = f"{skew.total_seconds():.1f} s from this machine's clock"
        return Check("clock", Verdict.WARN, found, "run_at is read by the server's: set up NTP")
    return Check("clock", Verdict.OK, "agrees with this machine's")


def autovacuum(server: Server) -> Check:
    """Judge whether dead rows are ever removed."""
    if server.autovacuum:
        return Check("autovacuum", Verdict.OK, "on")
    advice = "turn autovacuum and track_counts on, or claims slow down as dead rows pile up"
    return Check("autovacuum", Verdict.FAIL, "off", advice)


def headroom(server: Server) -> Check:
    """Judge how many connections are left for other processes of ours."""
    left = server.connections_max - server.connections
    found = f"{left} of {server.connections_max} are free"
    if left < HEADROOM_MIN:
        return Check("connections", Verdict.WARN, found, "raise max_connections, or use fewer")
    return Check("connections", Verdict.OK, found)


def _listens(connection: Connection[Any]) -> Check:
    """Judge whether a notification comes back on the session that listens for it."""
    connection.execute(f"listen {_CHANNEL}".encode())
    connection.execute(f"notify {_CHANNEL}".encode())
    for _ in connection.notifies(timeout=_LISTEN_TIMEOUT_S, stop_after=1):
        return Check("LISTEN", Verdict.OK, "notifications arrive")
    advice = (
        "work is found by polling alone (set worker.listen = false); a direct DSN wakes at once"
    )
    return Check("LISTEN", Verdict.WARN, "no notification came back", advice)


def _leads(setup: Setup, dsn: str) -> Iterator[Check]:
    """Judge what a leader's session needs, by opening one."""
    from orchestrator.leader.session import open_session
    from orchestrator.store import leadership
    from orchestrator.store.sql import run

    try:
        session = open_session(dsn, setup.settings.leader, holder=f"doctor {socket.gethostname()}")
    except OrchestratorError as error:
        yield Check("leader session", Verdict.FAIL, str(error))
        return
    with session:
        guard = run(session, leadership.guard(["tcp_user_timeout"]))
    yield Check("leader session", Verdict.OK, "the server ends a silent leader: timeouts hold")
    yield half_open(local=guard.local, timeout_ms=int(guard.settings["tcp_user_timeout"]))


def half_open(*, local: bool, timeout_ms: int) -> Check:
    """Judge whether the server notices a leader whose host has vanished."""
    if local:
        return Check("tcp_user_timeout", Verdict.OK, "not needed over a Unix socket")
    if timeout_ms:
        return Check("tcp_user_timeout", Verdict.OK, f"{timeout_ms} ms")
    advice = "a vanished leader is noticed by its idle timeout instead, which is enough"
    return Check("tcp_user_timeout", Verdict.WARN, "not supported by the server's system", advice)
