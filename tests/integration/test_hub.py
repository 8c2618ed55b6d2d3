"""Many clients that wait for work through one process: what they get, when, and what it costs."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from orchestrator.embedded import throwaway
from orchestrator.errors import DatabaseUnavailable, UnknownQueue
from orchestrator.model import AttemptStatus
from orchestrator.store import orgs
from orchestrator.store.migrate import upgrade
from orchestrator.store.names import ready_channel
from orchestrator.store.sql import run
from tests.conftest import roomy_memory
from tests.support.hub import PATIENCE_S, Harness, eventually, hub, ids
from tests.support.ready import put_ready
from tests.support.redis import RedisServer, needs_redis, redis_server
from tests.support.stage import Stage
from tests.support.stepping import claim as take
from tests.support.waiting import until


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def tell(stage: Stage, queue: int = 1) -> None:
    """Notify as a tick does."""
    stage.do(f"notify {ready_channel(queue)}")


def play(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 60))


# What polls cost


def test_polls_of_an_empty_queue_cost_no_statement_once_it_is_known(stage: Stage) -> None:
    async def story() -> None:
        async with hub(stage.dsn) as api:
            await api.settle()
            asked = api.statements
            for _ in range(20):
                assert await asyncio.gather(*(api.claim() for _ in range(50))) == [[]] * 50
            assert api.statements == asked

    play(story)


@needs_redis
def test_a_process_knows_from_another_one_that_a_queue_is_empty(
    stage: Stage, redis: RedisServer
) -> None:
    async def story() -> None:
        settings = redis.settings()
        one = hub(stage.dsn, settings, listen=False)
        other = hub(stage.dsn, settings, listen=False)
        async with one as first, other as second:
            await second.claim()
            await first.until_known_empty()
            asked = second.statements
            await asyncio.gather(*(second.claim() for _ in range(1000)))
            assert second.statements == asked

    play(story)


def test_a_crowd_that_comes_at_once_looks_a_few_times_only(stage: Stage) -> None:
    async def story() -> None:
        async with hub(stage.dsn) as api:
            await api.listen()
            looks = api.hub.looks
            assert await asyncio.gather(*(api.claim() for _ in range(1000))) == [[]] * 1000
            # Four look at once before there is a verdict. While the crowd stands in the line the
            # clock may wake one of it, who looks too: so a slow machine adds a look a second.
            assert api.hub.looks - looks < 20

    play(story)


def test_nothing_asked_for_is_nothing_taken_and_no_statement(stage: Stage) -> None:
    async def story() -> None:
        put_ready(stage)
        async with hub(stage.dsn) as api:
            await api.claim()
            asked = api.statements
            assert await api.claim(limit=0) == []
            assert api.statements == asked

    play(story)


# What is found


def test_work_admitted_while_a_look_is_under_way_is_not_hidden(stage: Stage) -> None:
    async def story() -> None:
        async with hub(stage.dsn) as api:
            await api.listen()
            version = await api.heard.version(1)
            assert version is not None
            (task,) = put_ready(stage)
            tell(stage)
            await eventually(lambda: api.heard._versions[1] != version)
            await api.heard.mark_empty(1, version)  # the late verdict of a slow look
            assert ids(await api.claim()) == [task]

    play(story)


def test_a_row_that_another_transaction_holds_gives_no_verdict(stage: Stage) -> None:
    async def story() -> None:
        (task,) = put_ready(stage)
        async with hub(stage.dsn) as api:
            await api.claim(limit=0)
            other = stage.connect()
            with other.transaction(force_rollback=True):
                assert ids(take(other, 1)) == [task]
                await api.claim()
                await api.until_heard()
                for _ in range(3):
                    assert await api.claim() == []
            # Rolled back, and nobody notifies of that.
            assert ids(await api.claim()) == [task]

    play(story)


@needs_redis
def test_who_hears_of_work_looks_though_the_verdict_in_redis_is_not_voided_yet(
    stage: Stage, redis: RedisServer
) -> None:
    async def story() -> None:
        redis.client.flushall()
        async with hub(stage.dsn, redis.settings()) as api:
            await api.settle()
            assert api.shared is not None
            waiting = [asyncio.create_task(api.claim(wait_s=20)) for _ in range(3)]
            await api.until_waiting(3)
            assert await api.shared.is_empty(1)
            # The notification of a commit whose bump is late, or never comes.
            tasks = put_ready(stage, 3)
            tell(stage)
            claims = await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)
            assert sorted(ids([claim for each in claims for claim in each])) == tasks
            assert await api.shared.is_empty(1)

    play(story)


@needs_redis
def test_who_polls_between_a_notification_and_its_bump_is_not_told_that_nothing_is_there(
    stage: Stage, redis: RedisServer
) -> None:
    async def story() -> None:
        redis.client.flushall()
        async with hub(stage.dsn, redis.settings()) as api:
            await api.settle()
            tasks = put_ready(stage, 2)
            tell(stage)
            await eventually(lambda: api.hub._lines["default"].news)
            assert ids(await api.claim()) == tasks[:1]
            # Until a look found nothing, the news stands.
            assert ids(await api.claim()) == tasks[1:]
            assert await api.claim() == []
            assert not api.hub._lines["default"].news

    play(story)


@needs_redis
def test_without_notifications_the_bump_alone_ends_the_wait(
    stage: Stage, redis: RedisServer
) -> None:
    async def story() -> None:
        redis.client.flushall()
        async with hub(stage.dsn, redis.settings(), listen=False) as api:
            await api.until_known_empty()
            waiting = asyncio.create_task(api.claim(wait_s=20))
            await api.until_waiting(1)
            (task,) = put_ready(stage)
            await asyncio.sleep(0.6)
            assert not waiting.done()  # the verdict stands: that is what it costs to lose a bump
            (key,) = redis.client.keys("*version*")
            redis.client.incr(key)
            assert ids(await asyncio.wait_for(waiting, PATIENCE_S)) == [task]

    play(story)


def test_without_notifications_and_redis_polling_finds_work(stage: Stage) -> None:
    async def story() -> None:
        async with hub(stage.dsn, listen=False) as api:
            waiting = asyncio.create_task(api.claim(wait_s=20))
            await api.until_waiting(1)
            (task,) = put_ready(stage)
            assert ids(await asyncio.wait_for(waiting, PATIENCE_S)) == [task]

    play(story)


def test_a_lost_session_is_not_trusted_and_found_again(stage: Stage) -> None:
    async def story() -> None:
        async with hub(stage.dsn) as api:
            await api.settle()
            stage.do(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'orchestrator ear' and datname = current_database()"
            )
            await eventually(lambda: not api.heard.hears(1))
            (task,) = put_ready(stage)  # and its notification is lost
            assert ids(await api.claim()) == [task]
            await api.until_heard()
            await api.until_known_empty()

    play(story)


# Who waits


def test_one_task_and_a_thousand_waiters_cost_two_looks(stage: Stage) -> None:
    async def story() -> None:
        async with hub(stage.dsn) as api:
            await api.settle()
            waiting = [asyncio.create_task(api.claim(wait_s=30)) for _ in range(1000)]
            await api.until_waiting(1000)
            # On a slow machine the clock may wake one more before the last look has its verdict.
            assert api.hub._clock is not None
            api.hub._clock.cancel()
            looks = api.hub.looks
            (task,) = put_ready(stage)
            tell(stage)
            done, _ = await asyncio.wait(
                waiting, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S
            )
            assert [ids(each.result()) for each in done] == [[task]]
            await api.until_waiting(999)
            assert api.hub.looks - looks == 2  # one that took it, one that found no more
            api.hub.drain()
            rest = await asyncio.gather(*waiting)
            assert sum(map(len, rest)) == 1

    play(story)


def test_waiters_are_served_in_the_order_in_which_they_came(stage: Stage) -> None:
    async def story() -> None:
        async with hub(stage.dsn) as api:
            await api.settle()
            waiting = []
            for count in range(1, 6):
                waiting.append(asyncio.create_task(api.claim(wait_s=20)))
                await api.until_waiting(count)
            tasks = put_ready(stage, 5)
            tell(stage)
            claims = await asyncio.gather(*waiting)
            assert [ids(each) for each in claims] == [[task] for task in tasks]

    play(story)


def test_a_wait_ends_in_time_with_nothing(stage: Stage) -> None:
    async def story() -> None:
        async with hub(stage.dsn) as api:
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await api.claim(wait_s=0.3) == []
            assert 0.29 <= loop.time() - began < PATIENCE_S

    play(story)


def test_who_looks_when_the_process_ends_does_not_wait_any_longer(stage: Stage) -> None:
    async def story() -> None:
        async with hub(stage.dsn) as api:
            await api.settle()
            waiting = asyncio.create_task(api.claim(wait_s=2 * PATIENCE_S))
            await api.until_waiting(1)
            blocker = stage.connect()
            with blocker.transaction():
                blocker.execute("lock table orchestrator.task_queue in access exclusive mode")
                tell(stage)
                waits = "select count(*) from pg_locks where not granted"
                await asyncio.to_thread(until, lambda: stage.one(waits), "woken, it looks")
                api.hub.drain()
            assert await asyncio.wait_for(waiting, PATIENCE_S) == []

    play(story)


def test_who_hangs_up_while_it_waits_takes_nothing_and_holds_up_nobody(stage: Stage) -> None:
    async def story() -> None:
        async with hub(stage.dsn) as api:
            await api.settle()
            gone = asyncio.create_task(api.claim(wait_s=20))
            await api.until_waiting(1)
            staying = asyncio.create_task(api.claim(wait_s=20))
            await api.until_waiting(2)
            (task,) = put_ready(stage)
            # Nothing but the baton shall wake the other one.
            assert api.hub._clock is not None
            api.hub._clock.cancel()
            # Woken and cancelled in one turn of the loop: it leaves with the baton.
            api.hub._lines["default"].notify()
            gone.cancel()
            assert ids(await asyncio.wait_for(staying, PATIENCE_S)) == [task]
            with pytest.raises(asyncio.CancelledError):
                await gone
            assert stage.one("select count(*) from orchestrator.lease") == 1

    play(story)


def test_what_was_claimed_for_a_client_that_hung_up_meanwhile_is_released_at_once(
    stage: Stage,
) -> None:
    async def story() -> None:
        async with hub(stage.dsn) as api:
            await api.claim(limit=0)
            (task,) = put_ready(stage)
            blocker = stage.connect()
            with blocker.transaction():
                # The claim waits at its second half: it cannot write its lease.
                blocker.execute("lock table orchestrator.lease in exclusive mode")
                gone = asyncio.create_task(api.claim())
                waits = "select count(*) from pg_locks where not granted"
                await asyncio.to_thread(until, lambda: stage.one(waits), "the claim waits")
                gone.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await gone
            released = "select status from orchestrator.task_attempt where task_id = %s"
            rows = await asyncio.to_thread(until, lambda: stage.rows(released, task), "released")
            assert rows == [(AttemptStatus.RELEASED,)]
            assert stage.one("select attempt from orchestrator.staging_queue") == 0

    play(story)


# Several queues


def add_queue(stage: Stage, name: str) -> int:
    """Create a queue; return its id."""
    with stage.db.transaction():
        run(stage.db, orgs.set_queue(name, actor="test"))
    found: int = stage.one("select id from orchestrator.queue where name = %s", name)
    return found


def test_several_queues_are_taken_from_in_order_up_to_the_limit(stage: Stage) -> None:
    async def story() -> None:
        add_queue(stage, "other")
        first = put_ready(stage, 2)
        async with hub(stage.dsn) as api:
            found = await api.claim("other", "default", "other", limit=5)
            assert sorted(ids(found)) == first
            assert {claim.queue for claim in found} == {"default"}
            with pytest.raises(UnknownQueue):
                await api.claim("default", "nowhere")

    play(story)


def test_what_one_queue_gave_is_told_though_the_next_one_failed(stage: Stage) -> None:
    async def story() -> None:
        other = add_queue(stage, "other")
        (task,) = put_ready(stage)
        async with hub(stage.dsn) as api:
            await api.claim("default", "other", limit=0)
            failing = _failing_for(api, other)
            assert ids(await api.claim("default", "other", limit=5)) == [task]
            with pytest.raises(DatabaseUnavailable):
                await api.claim("other", "default", limit=5)
            assert failing == [other, other]

    play(story)


def _failing_for(api: Harness, queue: int) -> list[int]:
    """Let each look at one queue fail as a lost connection does; return the list of failures."""
    failed: list[int] = []
    ask = api.hub._ask

    async def failing(line: Any, order: Any) -> Any:
        if line.queue == queue:
            failed.append(queue)
            raise DatabaseUnavailable("the database did not answer")
        return await ask(line, order)

    api.hub._ask = failing  # type: ignore[method-assign]
    return failed


def test_a_waiter_of_two_queues_is_woken_by_either(stage: Stage) -> None:
    async def story() -> None:
        add_queue(stage, "other")
        async with hub(stage.dsn) as api:
            await api.claim("other", "default")
            await api.until_heard()
            await api.until_known_empty("other", "default")
            waiting = asyncio.create_task(api.claim("other", "default", wait_s=20))
            await api.until_waiting(1, "other")
            (task,) = put_ready(stage)
            tell(stage)
            assert ids(await asyncio.wait_for(waiting, PATIENCE_S)) == [task]

    play(story)


# Faults


@needs_redis
@pytest.mark.parametrize("fault", ["killed", "paused", "flushed"])
def test_redis_gone_in_mid_run_delays_nothing_and_loses_nothing(
    stage: Stage, redis: RedisServer, fault: str
) -> None:
    async def story() -> None:
        redis.client.flushall()
        async with hub(stage.dsn, redis.settings()) as api:
            await api.settle()
            waiting = [asyncio.create_task(api.claim(wait_s=20)) for _ in range(4)]
            await api.until_waiting(4)
            try:
                if fault == "killed":
                    redis.kill()
                elif fault == "paused":
                    redis.signal(signal.SIGSTOP)
                else:
                    redis.client.flushall()
                tasks = put_ready(stage, 4)
                tell(stage)
                claims = await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)
                assert sorted(ids([claim for each in claims for claim in each])) == tasks
                # What is heard here is enough to know that there is no more.
                await api.until_known_empty()
            finally:
                if fault == "killed":
                    redis.start()
                elif fault == "paused":
                    redis.signal(signal.SIGCONT)

    play(story)


def test_the_session_that_listens_is_never_in_a_transaction(stage: Stage) -> None:
    async def story() -> None:
        async with hub(stage.dsn) as api:
            await api.listen()
            with psycopg.connect(stage.dsn) as observer:
                row = observer.execute(
                    "select state, backend_xmin, backend_xid from pg_stat_activity"
                    " where application_name = 'orchestrator ear' and datname = current_database()"
                ).fetchone()
            assert row == ("idle", None, None)

    play(story)


# What the server counts


@pytest.fixture(scope="module")
def counting(binaries: Path) -> Iterator[str]:
    """Yield the DSN of a server that counts statements, as a role that nobody else has."""
    settings = {"shared_preload_libraries": "pg_stat_statements", "fsync": "off"}
    with throwaway(binaries=binaries, settings=settings, parent=roomy_memory()) as dsn:
        upgrade(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("create extension pg_stat_statements")
            connection.execute("create role api superuser login")
        yield dsn


@pytest.mark.parametrize("store", ["memory", pytest.param("redis", marks=needs_redis)])
def test_a_thousand_polls_of_an_empty_queue_are_no_statement_to_the_server(
    counting: str, store: str, request: pytest.FixtureRequest
) -> None:
    redis_settings = None
    if store == "redis":
        redis_settings = request.getfixturevalue("redis").settings()
    dsn = make_conninfo(counting, user="api")
    calls = "select coalesce(sum(calls), 0) from pg_stat_statements where userid = 'api'::regrole"

    async def story() -> None:
        async with hub(dsn, redis_settings, listen=store == "memory") as api:
            await api.claim()
            if store == "memory":
                await api.until_heard()
            await api.until_known_empty()
            with psycopg.connect(counting, autocommit=True) as observer:
                assert observer.execute(calls.encode()).fetchone() != (0,)
                observer.execute("select pg_stat_statements_reset()")
                for _ in range(10):
                    assert await asyncio.gather(*(api.claim() for _ in range(100))) == [[]] * 100
                if store == "memory":
                    # Long enough for the session to be asked whether it lives.
                    proved_at = api.heard._proved_at
                    await eventually(lambda: api.heard._proved_at > proved_at)
                assert observer.execute(calls.encode()).fetchone() == (0,)

    play(story)
