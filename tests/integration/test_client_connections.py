"""The connections beneath a client: pools, poolers, engines, losses, forks."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
import sqlalchemy

from orchestrator import (
    AsyncClient,
    Claim,
    Client,
    ConfigError,
    DatabaseUnavailable,
    IdempotencyConflict,
    InvalidInput,
    OrchestratorError,
    SchemaMismatch,
)
from orchestrator.client.steps import Work
from orchestrator.config import DatabaseSettings, Settings
from orchestrator.embedded.account import choose
from orchestrator.leader.replica import Replica
from orchestrator.store.sql import Call, just
from tests.conftest import Server
from tests.integration.conftest import ask
from tests.support.waiting import until

WAIT_S = 20.0


def claimed(client: Client, count: int) -> list[Claim]:
    """Enqueue and claim `count` tasks, all with one lease."""
    client.enqueue_many([{"name": "t", "org": "acme"}] * count)
    until(lambda: len(client.tasks(place="ready")) == count, "all are ready")
    return client.claim(limit=count)


def test_verbs_are_shared_between_threads(replica: Replica, client: Client) -> None:
    tasks, workers = 200, 16
    client.enqueue_many([{"name": "t", "org": "acme"}] * tasks)
    done: list[int] = []
    deadline = time.monotonic() + WAIT_S

    def work() -> None:
        while len(done) < tasks and time.monotonic() < deadline:
            for claim in client.claim(limit=5, wait_s=0.2):
                client.ack(claim)
                done.append(claim.id)

    with ThreadPoolExecutor(workers) as threads:
        for future in [threads.submit(work) for _ in range(workers)]:
            future.result(60)
    assert len(set(done)) == len(done) == tasks


def test_connections_that_the_server_closed_are_replaced_unnoticed(
    dsn: str, client: Client
) -> None:
    together = threading.Barrier(4, timeout=30)

    def call(_: int) -> None:
        together.wait()
        client.enqueue("t", org="acme")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(call, range(4)))
    mine = "from pg_stat_activity where application_name = 'orchestrator client'"
    assert ask(dsn, f"select count(*) {mine}") > 0
    ask(dsn, f"select array_agg(pg_terminate_backend(pid, 5000)) {mine}")
    for _ in range(4):
        assert client.enqueue("t", org="acme").created


def test_an_enqueue_whose_outcome_is_unknown_says_so(dsn: str, client: Client) -> None:
    client.enqueue("t", org="acme")
    waiting = (
        "select pid from pg_stat_activity where wait_event_type = 'Lock' "
        "and application_name = 'orchestrator client'"
    )
    with psycopg.connect(dsn) as holder, ThreadPoolExecutor(1) as threads:
        holder.execute("lock table orchestrator.staging_queue in access exclusive mode")
        enqueued = threads.submit(client.enqueue, "t", org="acme")
        pid = until(lambda: ask(dsn, waiting), "the enqueue waits for the table")
        ask(dsn, "select pg_terminate_backend(%s)", pid)
        with pytest.raises(DatabaseUnavailable, match=r"unknown.*idempotency_key"):
            enqueued.result(WAIT_S)
    assert client.enqueue("t", org="acme").created


def test_a_statement_that_the_server_refused_is_no_unknown_outcome(dsn: str) -> None:
    impatient = dsn + "&options=-c%20lock_timeout%3D50ms"
    with psycopg.connect(dsn) as holder, Client(impatient) as client:
        holder.execute("lock table orchestrator.staging_queue in access exclusive mode")
        with pytest.raises(DatabaseUnavailable, match="lock timeout") as refused:
            client.enqueue("t", org="acme")
        assert "unknown" not in str(refused.value)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with Client("postgresql://127.0.0.1:1/nowhere") as client:
        with pytest.raises(DatabaseUnavailable, match="did not answer"):
            client.enqueue("t", org="acme")
        with pytest.raises(DatabaseUnavailable):
            client.claim(wait_s=30)


def test_a_pool_that_stays_in_use_says_so(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.client.connections.POOL_TIMEOUT_S", 0.05)
    settings = Settings(database=DatabaseSettings(pool_size=1))
    with Client(dsn, settings=settings) as client, psycopg.connect(dsn) as holder:
        client.get(client.enqueue("t", org="acme").id)
        holder.execute("lock table orchestrator.staging_queue in access exclusive mode")
        with ThreadPoolExecutor(1) as threads:
            stuck = threads.submit(client.enqueue, "t", org="acme")
            waits = "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock'"
            until(lambda: ask(dsn, waits), "the only connection is in use")
            with pytest.raises(DatabaseUnavailable, match="pool_size"):
                client.get(1)
            holder.rollback()
            stuck.result(WAIT_S)


def test_who_waits_for_the_only_connection_gets_it_next(dsn: str) -> None:
    settings = Settings(database=DatabaseSettings(pool_size=1))
    with Client(dsn, settings=settings) as client, psycopg.connect(dsn) as holder:
        first = client.enqueue("t", org="acme").id
        holder.execute("lock table orchestrator.staging_queue in access exclusive mode")
        with ThreadPoolExecutor(2) as threads:
            stuck = threads.submit(client.enqueue, "t", org="acme")
            waits = "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock'"
            until(lambda: ask(dsn, waits), "the only connection is in use")
            waiting = threads.submit(client.get, first)
            until(lambda: client._lending._asking, "the other call asks the pool")
            holder.rollback()
            assert stuck.result(WAIT_S).created
            assert waiting.result(WAIT_S).name == "t"


def test_a_database_without_the_schema_says_what_to_do(empty_dsn: str) -> None:
    with Client(empty_dsn) as client, pytest.raises(SchemaMismatch, match="orchestrator migrate"):
        client.enqueue("t", org="acme")


def test_a_dsn_that_is_none_is_refused_without_its_password() -> None:
    password = uuid.uuid4().hex
    with pytest.raises(ConfigError, match="not a PostgreSQL DSN") as refused:
        Client(f"postgresql+psycopg://me:{password}@host/db")
    assert password not in "".join(traceback.format_exception(refused.value))


def test_no_database_named_is_an_error_and_the_environment_names_one(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(ConfigError, match="DATABASE_URL"):
        Client()
    monkeypatch.setenv("DATABASE_URL", dsn)
    with Client() as client:
        assert client.enqueue("t", org="acme").created


def test_other_drivers_are_refused() -> None:
    lite = sqlalchemy.create_engine("sqlite://")
    with pytest.raises(InvalidInput, match=r"postgresql\+psycopg"):
        Client(lite)
    stranger: Any = 7
    with pytest.raises(InvalidInput, match="DSN or a SQLAlchemy Engine"):
        Client(stranger)


SPY = """
create table seen (operation text, enable_seqscan text);
create function spy() returns trigger language plpgsql as $$
begin
  insert into public.seen values (tg_op, current_setting('enable_seqscan'));
  return null;
end $$;
create trigger spy after update or delete on orchestrator.task_queue
  for each statement execute function spy();
"""


def test_claims_and_their_ends_run_under_the_pins_whoever_owns_the_connections(
    dsn: str, replica: Replica
) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SPY)
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    for database in (dsn, engine):
        with Client(database) as client:
            first, second = claimed(client, 2)
            client.ack(first)
            client.nack(second, "broken", delay=600)
    engine.dispose()
    seen = ask(dsn, "select array_agg(operation || ' ' || enable_seqscan) from seen")
    assert Counter(seen) == {"UPDATE off": 2, "DELETE off": 4}


def test_a_callers_engine_may_bind_on_the_client_side(dsn: str, replica: Replica) -> None:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(dsn, cursor_factory=psycopg.ClientCursor),
    )
    with Client(engine) as client:
        client.ack(claimed(client, 1))
    engine.dispose()


def test_a_callers_engine_keeps_its_own_plans(dsn: str, replica: Replica) -> None:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), pool_size=1, max_overflow=0
    )
    with Client(engine) as client:
        first, second = claimed(client, 2)
        client.ack(first)
        client.nack(second, "broken")
        with engine.connect() as connection:
            for setting in ("enable_seqscan", "enable_hashjoin"):
                shown = connection.execute(sqlalchemy.text(f"show {setting}")).scalar()
                assert shown == "on"
    # It was the caller's before, and stays so.
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("select 1")).scalar() == 1
    engine.dispose()


def test_a_closed_client_says_so_and_closes_again(dsn: str) -> None:
    with Client(dsn) as client:
        client.enqueue("t", org="acme")
    client.close()
    with pytest.raises(OrchestratorError, match="closed"):
        client.enqueue("t", org="acme")
    mine = (
        "select count(*) = 0 from pg_stat_activity where application_name = 'orchestrator client'"
    )
    until(lambda: ask(dsn, mine), "its sessions are gone")


FORK = """
import os, sys
from orchestrator import Client, OrchestratorError
with Client(sys.argv[1]) as client:
    client.enqueue("t", org="acme")
    child = os.fork()
    if child == 0:
        try:
            client.enqueue("t", org="acme")
        except OrchestratorError as error:
            client.close()
            os.write(1, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    client.enqueue("t", org="acme")
"""


def test_a_client_from_before_a_fork_says_so_and_leaves_the_parent_alone(dsn: str) -> None:
    told = subprocess.run([sys.executable, "-c", FORK, dsn], capture_output=True, check=True)
    assert b"make a new one in the child process" in told.stdout
    assert ask(dsn, "select count(*) from orchestrator.task") == 2


# A pooler in transaction mode ---------------------------------------------------------------------

POOLER = """
[databases]
{name} = host={host} port={server_port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
ignore_startup_parameters = {ignored}
"""


@pytest.fixture(params=["extra_float_digits", "options"], ids=["refuses_pins", "swallows_pins"])
def pooled_dsn(request: pytest.FixtureRequest, dsn: str, server: Server) -> Iterator[str]:
    """Yield the DSN of a pgbouncer before the test's database."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    name = parts.path.removeprefix("/")
    settings = Path(query["host"][0]) / f"{name}.ini"
    settings.write_text(
        POOLER.format(
            name=name,
            host=query["host"][0],
            server_port=query["port"][0],
            port=port,
            ignored=request.param,
        )
    )
    # It refuses to be root, as the server does, and must reach the server's socket.
    account = choose(server.binaries, owner_uid=server.data_dir.stat().st_uid)
    pooler = subprocess.Popen([*account.prefix(), program, "--quiet", str(settings)])
    pooled = f"postgresql://postgres@127.0.0.1:{port}/{name}"

    def answers() -> bool:
        assert pooler.poll() is None, "pgbouncer ended"
        with suppress(psycopg.OperationalError), psycopg.connect(pooled):
            return True
        return False

    until(answers, "pgbouncer answers")
    yield pooled
    pooler.terminate()
    pooler.wait()


def test_everything_works_behind_a_transaction_pooler(pooled_dsn: str, replica: Replica) -> None:
    tasks, workers = 60, 6
    done: list[int] = []
    deadline = time.monotonic() + WAIT_S

    def work() -> None:
        while len(done) < tasks and time.monotonic() < deadline:
            for claim in client.claim(limit=4, wait_s=0.1):
                if claim.attempt == 1 and claim.id % 5 == 0:
                    client.nack(claim, "once more", delay=0)
                    continue
                client.extend(claim)
                client.ack(claim)
                done.append(claim.id)

    with Client(pooled_dsn) as client, ThreadPoolExecutor(workers) as threads:
        running = [threads.submit(work) for _ in range(workers)]
        batch = [{"name": "t", "org": f"org {n % 3}", "idempotency_key": str(n)} for n in range(50)]
        client.enqueue_many(batch)
        for _ in range(tasks - len(batch)):
            client.enqueue("t", org="acme")
        for future in running:
            future.result(60)
        first = client.enqueue("t", 1, org="acme", idempotency_key="k")
        with pytest.raises(IdempotencyConflict):
            client.enqueue_many([{"name": "t", "org": "acme", "idempotency_key": "k"}])
        assert client.cancel(first.id) == "cancelled"
    assert len(set(done)) == len(done) == tasks


def test_a_large_batch_goes_in_parts_through_a_transaction_pooler(
    pooled_dsn: str, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.client.producing.STREAM_ITEMS", 7)
    batch: list[dict[str, Any]] = [{"name": "t", "org": "acme", "payload": n} for n in range(60)]
    with Client(pooled_dsn) as client:
        for _ in range(3):
            assert len({each.id for each in client.enqueue_many(batch)}) == len(batch)
            with pytest.raises(InvalidInput, match="item 60: "):
                client.enqueue_many([*batch, {"name": "t", "org": "acme", "payload": {1: 2}}])
    assert ask(dsn, "select count(*) from orchestrator.staging_queue") == 180


def test_what_was_pinned_for_a_transaction_is_loose_after_it(
    pooled_dsn: str, replica: Replica
) -> None:
    with Client(pooled_dsn) as client, psycopg.connect(pooled_dsn, prepare_threshold=None) as watch:
        client.enqueue("t", org="acme")
        [claim] = client.claim(wait_s=WAIT_S)
        client.ack(claim)
        assert watch.execute("show enable_seqscan").fetchone() == ("on",)


def test_the_async_client_works_behind_a_transaction_pooler(
    pooled_dsn: str, replica: Replica
) -> None:
    async def main() -> None:
        async with AsyncClient(pooled_dsn) as client:
            await asyncio.gather(*(client.enqueue("t", org="acme") for _ in range(20)))
            done = 0
            while done < 20:
                claims = await client.claim(limit=5, wait_s=WAIT_S)
                await client.ack(claims)
                done += len(claims)

    asyncio.run(main())


def test_a_connection_left_in_a_transaction_does_not_go_back_to_the_pool(
    dsn: str, client: Client
) -> None:
    client.enqueue("t", org="acme")

    def backend() -> object:
        return client._by_itself(Work(operation=just(Call(b"select pg_backend_pid()", {}))))

    left = backend()
    assert backend() == left
    client._by_itself(Work(operation=just(Call(b"begin", {}))))
    assert backend() != left
    assert client.enqueue("t", org="acme").created
    assert ask(dsn, "select count(*) from orchestrator.task") == 2
