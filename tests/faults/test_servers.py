"""Servers that fail over, run full, or take no more connections; clocks that lie."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orchestrator.client import Client
from orchestrator.errors import DatabaseUnavailable
from orchestrator.store.migrate import upgrade
from tests.faults.chaos.server import Server
from tests.faults.judge import reading
from tests.support.waiting import until

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]
# The command line in a process whose clock is wrong by so many seconds. Not by faketime(1): with it
# the timed waits of the interpreter's own locks do not end.
SKEWED = """
import datetime, sys, time
skew = float(sys.argv.pop(1))
true_time, true_datetime = time.time, datetime.datetime
class Skewed(true_datetime):
    @classmethod
    def now(cls, tz=None):
        return true_datetime.now(tz) + datetime.timedelta(seconds=skew)
time.time = lambda: true_time() + skew
datetime.datetime = Skewed
from orchestrator.cli import main
main()
"""
TASK: dict[str, Any] = {"name": "ok", "org": "a"}
PROGRAM = (sys.executable, "-m", "orchestrator")
QUICK = {
    "ORCHESTRATOR_LEADER_ELECTION_POLL_S": "0.1",
    "ORCHESTRATOR_LEADER_IDLE_SESSION_TIMEOUT_S": "1",
    "ORCHESTRATOR_LEADER_IDLE_IN_TRANSACTION_TIMEOUT_S": "1",
    "ORCHESTRATOR_LEADER_IDLE_POLL_S": "0.2",
    "ORCHESTRATOR_WORKER_LEASE_S": "1",
    "ORCHESTRATOR_WORKER_POLL_MAX_S": "0.2",
    "ORCHESTRATOR_LOG_FORMAT": "json",
}


def payload(token: str, ms: int = 1) -> dict[str, Any]:
    return {"token": token, "org": "a", "ms": ms}


@contextmanager
def command(dsn: str, home: Path, *words: str, program: tuple[str, ...] = PROGRAM) -> Iterator[int]:
    """Run a verb of the command line; its log is in `home`, named for the verb."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ORCHESTRATOR_", "PG"))}
    env = kept | QUICK | {"DATABASE_URL": dsn, "CHAOS_JOURNAL": str(home / "handled")}
    with (home / words[0]).open("ab") as log:
        process = subprocess.Popen(
            [*program, *words],
            cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process.pid
    finally:
        # The group: some wrappers leave their child behind.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def working(dsn: str, home: Path, *, program: tuple[str, ...] = PROGRAM) -> Iterator[int]:
    """Run a replica and a worker; yield the process id of the worker."""
    with (
        command(dsn, home, "run", program=program),
        command(dsn, home, "worker", "tests.faults.chaos.handlers:app", program=program) as worker,
    ):
        yield worker


def one(dsn: str, query: str, *params: object) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode(), params).fetchone()
        assert row is not None
        return row[0]


def finished(dsn: str) -> int:
    query = "select count(*) from orchestrator.task_attempt where final and status = 'succeeded'"
    return int(one(dsn, query))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


# Failover -----------------------------------------------------------------------------------------

STREAMING = {"wal_level": "replica", "max_wal_senders": "4", "hot_standby": "on"}


@contextmanager
def pair() -> Iterator[tuple[Server, Server, str]]:
    """Yield a primary, its streaming standby, and a DSN that finds whichever is the primary."""
    with ExitStack() as opened:
        primary = opened.enter_context(Server(STREAMING))
        upgrade(primary.dsn())
        standby = opened.enter_context(Server(STREAMING, replica_of=primary))
        streams = "select exists (select from pg_stat_replication where state = 'streaming')"
        until(lambda: one(primary.dsn(), streams), "the standby streams")
        hosts = f"host={primary.home},{standby.home}&port=5432,5432"
        wanted = f"{hosts}&target_session_attrs=read-write"
        yield primary, standby, f"postgresql://postgres@/postgres?{wanted}"


def promote(standby: Server) -> None:
    assert one(standby.dsn(), "select pg_promote(true, 30)")
    until(lambda: not one(standby.dsn(), "select pg_is_in_recovery()"), "it is the primary")


def test_a_synchronous_failover_loses_nothing_that_was_acknowledged(home: Path) -> None:
    with pair() as (primary, standby, dsn):
        with primary.connect() as connection:
            connection.execute("alter system set synchronous_standby_names = 'standby'")
            connection.execute("select pg_reload_conf()")
        synchronous = "select exists (select from pg_stat_replication where sync_state = 'sync')"
        until(lambda: one(primary.dsn(), synchronous), "the standby is synchronous")
        with working(dsn, home), Client(dsn) as client:
            acked = [client.enqueue(**TASK, payload=payload(str(n))).id for n in range(60)]
            until(lambda: finished(dsn) >= 5, "some have run", patience_s=40)
            epoch = one(dsn, "select epoch from orchestrator.orchestrator_lock where queue = 1")
            primary.stop()
            promote(standby)
            more = until(lambda: enqueued(client), "the producer reaches the new primary")
            until(lambda: finished(dsn) >= len(acked) + 1, "everything has run", patience_s=60)
        assert (
            one(dsn, "select count(*) from orchestrator.task where id = any (%s)", [*acked, more])
            == 61
        )
        with standby.connect() as connection:
            terms = reading.terms(connection)
        # Another timeline, and an epoch that goes on from the last.
        assert terms[-1].timeline == 2
        assert terms[-1].epoch > epoch


def enqueued(client: Client) -> int | None:
    try:
        return client.enqueue(**TASK, payload=payload("more")).id
    except DatabaseUnavailable:
        return None


def test_an_asynchronous_failover_loses_the_end_of_history_and_nothing_else(home: Path) -> None:
    with pair() as (primary, standby, dsn), Client(dsn) as client:
        early = [client.enqueue(**TASK, payload=payload(str(n))).id for n in range(10)]
        caught_up = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
        written = one(primary.dsn(), "select pg_current_wal_lsn()::text")
        until(lambda: one(standby.dsn(), caught_up, written), "the standby has them")
        # From here on the standby hears nothing.
        with primary.connect() as connection:
            connection.execute("alter system set max_wal_senders = 0")
        with standby.connect() as connection:
            connection.execute("alter system set primary_conninfo = ''")
            connection.execute("select pg_reload_conf()")
        streams = "select exists (select from pg_stat_replication)"
        until(lambda: not one(primary.dsn(), streams), "the stream is cut")
        late = [client.enqueue(**TASK, payload=payload(f"late {n}")).id for n in range(5)]
        primary.stop()
        promote(standby)
        until(lambda: enqueued(client), "the producer reaches the new primary")
        kept = (
            "select count(*) from orchestrator.task"
            " where id = any (%s) and payload ->> 'token' = any (%s)"
        )
        # What the promise does not cover: S1, for what was acknowledged after the last byte came.
        assert one(dsn, kept, late, [f"late {n}" for n in range(5)]) == 0
        assert one(dsn, kept, early, [str(n) for n in range(10)]) == 10
        with working(dsn, home):
            until(lambda: finished(dsn) == 11, "everything that is left has run", patience_s=60)
        with standby.connect() as connection:
            seen = reading.sample(connection)
        assert [*seen.doubled, *seen.nowhere, *seen.shared, *seen.unleased] == []
        assert all(org.kept == org.in_flight for org in seen.orgs.values())


# Out of something ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server({"max_connections": "20", "superuser_reserved_connections": "3"}) as started:
        started.make_template()
        yield started


@pytest.fixture
def dsn(server: Server) -> Iterator[str]:
    name = server.create()
    yield server.dsn(name)
    server.drop(name)


def take_all(dsn: str, held: list[psycopg.Connection[Any]]) -> None:
    """Connect until nobody else can."""
    while True:
        try:
            held.append(psycopg.connect(dsn))
        except psycopg.OperationalError as error:
            if "connection slots" not in str(error):
                raise
            return


def test_without_free_connections_everybody_backs_off_and_comes_back(
    server: Server, dsn: str, home: Path
) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("create role plain login")
        admin.execute("grant pg_read_all_stats, pg_signal_backend to plain")
        admin.execute("grant all on schema orchestrator to plain")
        admin.execute("grant all on all tables in schema orchestrator to plain")
        admin.execute("grant all on all sequences in schema orchestrator to plain")
    plain = dsn.replace("postgres@", "plain@")
    held: list[psycopg.Connection[Any]] = []
    with working(plain, home), Client(plain) as client:
        first = client.enqueue(**TASK, payload=payload("before")).id
        until(lambda: finished(dsn) == 1, "it runs", patience_s=40)
        take_all(plain, held)
        # Nobody is let in: neither who comes, nor who comes back.
        cut = (
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where usename = 'plain' and application_name like 'orchestrator%%' and %s"
        )
        one(dsn, cut, True)
        take_all(plain, held)
        with Client(plain) as late, pytest.raises(DatabaseUnavailable, match="connection slots"):
            late.enqueue(**TASK, payload=payload("refused"))
        begun = (home / "run").stat().st_size
        time.sleep(2)
        # Backoff with jitter: a handful of lines, not a flood.
        assert (home / "run").stat().st_size - begun < 8_000
        for connection in held:
            connection.close()
        second = until(lambda: enqueued(client), "a producer is let in")
        until(lambda: finished(dsn) == 2, "it runs", patience_s=40)
    tokens = (
        "select array_agg(payload ->> 'token' order by id) from orchestrator.task"
        " where id = any (%s)"
    )
    assert one(dsn, tokens, [first, second]) == ["before", "more"]
    assert one(dsn, "select count(*) from orchestrator.task") == 2
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("drop owned by plain")
        admin.execute("drop role plain")


@pytest.fixture
def small_disk(server: Server) -> Iterator[Path]:
    """Yield a file system of a few megabytes that the server can write."""
    where = Path(tempfile.mkdtemp(prefix="small-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(where)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        where.rmdir()
        pytest.skip("needs root and mount(8) for a small tmpfs")
    inside = where / "space"
    inside.mkdir(mode=0o700)
    os.chown(inside, server.account.owner_uid, server.account.owner_gid)
    yield inside
    subprocess.run(["umount", "-l", str(where)], check=True)
    where.rmdir()


def fill(client: Client, big: str, stored: list[int]) -> None:
    for number in range(200):
        task = client.enqueue(**TASK, payload=payload(str(number)) | {"big": big})
        stored.append(task.id)


def test_a_full_disk_refuses_what_does_not_fit_and_loses_nothing(
    server: Server, dsn: str, small_disk: Path, home: Path
) -> None:
    with server.connect() as admin:
        admin.execute(f"create tablespace small location '{small_disk}'".encode())
    with psycopg.connect(dsn, autocommit=True) as admin:
        parts = (
            "select format('%I.%I', schemaname, tablename) from pg_tables"
            " where tablename ~ '^task_(default|p[0-9]+)$'"
        )
        for (part,) in admin.execute(parts.encode()).fetchall():
            admin.execute(f"alter table {part} set tablespace small".encode())
    filler = small_disk.parent / "filler"
    filler.write_bytes(bytes(9 * 2**20))
    stored: list[int] = []
    with Client(dsn) as client:
        big = os.urandom(150_000).hex()
        with pytest.raises(
            (DatabaseUnavailable, psycopg.Error), match=r"could not extend|No space"
        ):
            fill(client, big, stored)
        assert stored
        filler.unlink()
        stored.append(client.enqueue(**TASK, payload=payload("after")).id)
    ids = one(dsn, "select array_agg(id order by id) from orchestrator.task")
    assert ids == stored
    with working(dsn, home):
        until(lambda: finished(dsn) == len(stored), "everything runs", patience_s=60)
    with psycopg.connect(dsn, autocommit=True) as admin:
        for (part,) in admin.execute(parts.encode()).fetchall():
            admin.execute(f"alter table {part} set tablespace pg_default".encode())
    with server.connect() as admin:
        admin.execute("drop tablespace small")


def test_a_worker_without_descriptors_recovers_when_it_has_some(dsn: str, home: Path) -> None:
    cut = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where"
        " application_name similar to 'orchestrator (fetcher|acks|heartbeat|worker) %%' and %s"
    )
    with working(dsn, home) as worker, Client(dsn) as client:
        client.enqueue(**TASK, payload=payload("before"))
        until(lambda: finished(dsn) == 1, "it runs", patience_s=40)
        before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (3, before[1]))
        assert one(dsn, cut, True) > 0
        client.enqueue(**TASK, payload=payload("while"))
        said = home / "worker"
        until(lambda: "claim.failed" in said.read_text(), "it says so", patience_s=30)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, before)
        until(lambda: finished(dsn) == 2, "it runs", patience_s=40)
        assert Path(f"/proc/{worker}").exists()


# Clocks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew_s", [-3600, 3600])
def test_a_wrong_clock_of_replicas_and_workers_changes_no_lease(
    dsn: str, home: Path, skew_s: int
) -> None:
    skewed = (sys.executable, "-c", SKEWED, str(skew_s))
    with working(dsn, home, program=skewed), Client(dsn) as client:
        # Three times as long as its lease.
        client.enqueue(**TASK, payload=payload("long", ms=3000))
        client.enqueue(**TASK, payload=payload("delayed"), delay=1)
        until(lambda: finished(dsn) == 2, "both have run", patience_s=60)
    with psycopg.connect(dsn, autocommit=True) as connection:
        attempts = reading.attempts(connection)
        tasks = {task.id: task for task in reading.tasks(connection)}
    assert [(each.attempt, each.status) for each in attempts] == [(1, "succeeded")] * 2
    delayed = next(each for each in attempts if tasks[each.task].token == "delayed")
    waited = (delayed.claimed_at or 0) - tasks[delayed.task].created_at
    assert 1 <= waited < 20


def test_an_interrupted_migration_leaves_nothing_and_can_be_done_again(
    server: Server, home: Path
) -> None:
    with server.connect() as admin:
        admin.execute("create database unmigrated")
        # Somebody else migrates, for as long as we like.
        dsn = server.dsn("unmigrated")
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("select pg_advisory_lock(%s, 0)", [0x6F726368])
            process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", "migrate"],
                cwd=ROOT, env=os.environ | {"DATABASE_URL": dsn},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            waits = (
                "select exists (select from pg_stat_activity where datname = 'unmigrated'"
                " and pid <> pg_backend_pid() and pid <> %s)"
            )
            pid = other.info.backend_pid
            until(lambda: one(dsn, waits, pid), "it has connected", patience_s=40)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=20)
            assert process.returncode != 0, said
        made = "select count(*) from pg_namespace where nspname = 'orchestrator' and %s"
        assert one(dsn, made, True) == 0
        upgrade(dsn)
        admin.execute("drop database unmigrated with (force)")
