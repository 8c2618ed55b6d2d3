"""What is remembered of empty queues: the same contract for both stores, Redis's own faults."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias

import pytest

from orchestrator.config import RedisSettings
from orchestrator.errors import ConfigError
from orchestrator.telemetry import metrics
from orchestrator.wakeup.bumper import Bumper
from orchestrator.wakeup.empty import VERDICT_TTL_MAX_S, Verdicts, clamped
from orchestrator.wakeup.heard import TRUST_S, Heard
from orchestrator.wakeup.redis import BUDGET_S, REST_S, Keys, RedisVerdicts
from tests.support.redis import RedisServer, needs_redis, redis_server
from tests.support.waiting import until

DATABASE = "7-1"


class Store(Protocol):
    """A store of verdicts with the bump of its kind."""

    @property
    def verdicts(self) -> Verdicts: ...

    async def bump(self, queue: int) -> None: ...


Told: TypeAlias = Callable[[Callable[[Store], Awaitable[None]]], None]


class InMemory:
    def __init__(self) -> None:
        self.now = 100.0
        self.verdicts = Heard(clock=lambda: self.now)
        for queue in (1, 2):
            self.verdicts.listening(queue)
        self.verdicts.proved(self.now)

    async def bump(self, queue: int) -> None:
        self.verdicts.bump(queue)


class InRedis:
    def __init__(self, server: RedisServer, **settings: Any) -> None:
        self.verdicts = RedisVerdicts(server.settings(**settings), DATABASE)
        self._server = server
        self._bumper = Bumper(server.settings(**settings))
        self._bumper.start()

    async def bump(self, queue: int) -> None:
        key = Keys("orchestrator", DATABASE).version(queue)
        before = self._server.client.get(key)
        self._bumper.bump(DATABASE, queue)
        await asyncio.to_thread(until, lambda: self._server.client.get(key) != before, "a bump")

    async def close(self) -> None:
        await self.verdicts.close()
        self._bumper.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["memory", pytest.param("redis", marks=needs_redis)])
def with_store(
    request: pytest.FixtureRequest,
) -> Callable[[Callable[[Store], Awaitable[None]]], None]:
    """Return what runs a story against the store, inside one event loop."""

    async def told(story: Callable[[Store], Awaitable[None]]) -> None:
        if request.param == "memory":
            await story(InMemory())
            return
        server: RedisServer = request.getfixturevalue("server")
        server.client.flushall()
        store = InRedis(server)
        try:
            await story(store)
        finally:
            await store.close()

    return lambda story: asyncio.run(told(story))


def failures() -> float:
    """Return how many calls this process gave up so far."""
    return float(metrics.FASTPATH_FAILURES.labels("redis")._value.get())


async def find_empty(verdicts: Verdicts, queue: int) -> None:
    version = await verdicts.version(queue)
    assert version is not None
    await verdicts.mark_empty(queue, version)


# The contract


def test_nothing_is_known_of_a_queue_at_first(with_store: Told) -> None:
    async def story(store: Store) -> None:
        assert not await store.verdicts.is_empty(1)

    with_store(story)


def test_a_queue_found_empty_is_known_to_be_until_something_becomes_claimable(
    with_store: Told,
) -> None:
    async def story(store: Store) -> None:
        await find_empty(store.verdicts, 1)
        assert await store.verdicts.is_empty(1)
        assert await store.verdicts.is_empty(1)
        await store.bump(1)
        assert not await store.verdicts.is_empty(1)
        await find_empty(store.verdicts, 1)
        assert await store.verdicts.is_empty(1)

    with_store(story)


def test_a_look_that_was_overtaken_by_an_admission_marks_nothing(with_store: Told) -> None:
    async def story(store: Store) -> None:
        version = await store.verdicts.version(1)
        assert version is not None
        await store.bump(1)  # between the look and its verdict
        await store.verdicts.mark_empty(1, version)
        assert not await store.verdicts.is_empty(1)

    with_store(story)


def test_a_late_verdict_of_an_old_version_does_not_pass_for_a_new_one(with_store: Told) -> None:
    async def story(store: Store) -> None:
        slow = await store.verdicts.version(1)
        assert slow is not None
        await store.bump(1)
        await find_empty(store.verdicts, 1)
        await store.verdicts.mark_empty(1, slow)
        await store.bump(1)
        assert not await store.verdicts.is_empty(1)

    with_store(story)


def test_queues_do_not_touch_each_other(with_store: Told) -> None:
    async def story(store: Store) -> None:
        await find_empty(store.verdicts, 1)
        assert not await store.verdicts.is_empty(2)
        await find_empty(store.verdicts, 2)
        await store.bump(2)
        assert await store.verdicts.is_empty(1)
        assert not await store.verdicts.is_empty(2)

    with_store(story)


def test_a_crowd_is_told_the_same(with_store: Told) -> None:
    async def story(store: Store) -> None:
        await find_empty(store.verdicts, 1)
        asked = [store.verdicts.is_empty(1 + number % 2) for number in range(200)]
        assert await asyncio.gather(*asked) == [True, False] * 100

    with_store(story)


def test_how_long_a_verdict_lives_is_bounded_whatever_is_asked_for() -> None:
    assert clamped(3600) == VERDICT_TTL_MAX_S == 30
    assert clamped(0) == clamped(-5) == 0.1
    assert clamped(12) == 12
    with pytest.raises(ValueError, match="less than or equal to 30"):
        RedisSettings(verdict_ttl_s=31)


# In memory


def test_a_verdict_in_memory_dies_of_age() -> None:
    async def story() -> None:
        store = InMemory()
        await find_empty(store.verdicts, 1)
        for _ in range(60):
            store.now += VERDICT_TTL_MAX_S / 60 - 0.001
            store.verdicts.proved(store.now)
            assert await store.verdicts.is_empty(1)
        store.now += 0.1
        store.verdicts.proved(store.now)
        assert not await store.verdicts.is_empty(1)

    asyncio.run(story())


def test_what_was_heard_is_trusted_only_so_long_after_the_last_proof() -> None:
    async def story() -> None:
        store = InMemory()
        await find_empty(store.verdicts, 1)
        store.now += TRUST_S
        assert await store.verdicts.is_empty(1)
        store.now += 0.001
        assert not await store.verdicts.is_empty(1)
        store.verdicts.proved(store.now)
        assert await store.verdicts.is_empty(1)

    asyncio.run(story())


def test_a_look_begun_before_the_session_was_lost_marks_nothing_in_the_next() -> None:
    async def story() -> None:
        store = InMemory()
        before = await store.verdicts.version(1)
        assert before is not None
        store.verdicts.deaf()
        assert await store.verdicts.version(1) is None
        store.verdicts.listening(1)
        store.verdicts.proved(store.now)
        await store.verdicts.mark_empty(1, before)
        assert not await store.verdicts.is_empty(1)

    asyncio.run(story())


# Redis and its faults


@asynccontextmanager
async def in_redis(server: RedisServer, **settings: Any) -> AsyncIterator[InRedis]:
    server.client.flushall()
    store = InRedis(server, **settings)
    try:
        yield store
    finally:
        await store.close()


def key_of_version(queue: int = 1) -> str:
    return Keys("orchestrator", DATABASE).version(queue)


def key_of_verdict(queue: int = 1) -> str:
    return Keys("orchestrator", DATABASE).verdict(queue)


@needs_redis
def test_a_verdict_in_redis_is_the_version_it_was_given_under_and_dies_in_time(
    server: RedisServer,
) -> None:
    async def story() -> None:
        async with in_redis(server, verdict_ttl_s=12) as store:
            await find_empty(store.verdicts, 1)
            assert server.client.get(key_of_verdict()) == server.client.get(key_of_version())
            assert 10_000 < server.client.pttl(key_of_verdict()) <= 12_000
            assert 86_000 < server.client.ttl(key_of_version()) <= 86_400

    asyncio.run(story())


@needs_redis
def test_whoever_asks_for_a_version_or_moves_it_on_keeps_it_for_a_day(server: RedisServer) -> None:
    async def story() -> None:
        async with in_redis(server) as store:
            await store.verdicts.version(1)
            server.client.expire(key_of_version(), 100)
            await store.verdicts.version(1)
            assert server.client.ttl(key_of_version()) > 86_000
            server.client.expire(key_of_version(), 100)
            await store.bump(1)
            assert server.client.ttl(key_of_version()) > 86_000

    asyncio.run(story())


@needs_redis
def test_databases_and_prefixes_do_not_share_verdicts(server: RedisServer) -> None:
    async def story() -> None:
        async with in_redis(server) as store:
            await find_empty(store.verdicts, 1)
            for database, prefix in (("7-2", "orchestrator"), (DATABASE, "staging")):
                other = RedisVerdicts(server.settings(prefix=prefix), database)
                assert not await other.is_empty(1)
                await other.close()
            assert await store.verdicts.is_empty(1)

    asyncio.run(story())


@needs_redis
@pytest.mark.parametrize("spoilt", ["version", "verdict"])
@pytest.mark.parametrize("value", [b"", b"none", b"-1", b"1.0", b" 7", b"\xff\x00", b"9" * 40, []])
def test_what_is_no_number_in_redis_reads_as_not_known_and_heals(
    server: RedisServer, spoilt: str, value: Any
) -> None:
    async def story() -> None:
        async with in_redis(server) as store:
            await find_empty(store.verdicts, 1)
            key = key_of_version() if spoilt == "version" else key_of_verdict()
            server.client.delete(key)
            if value == []:
                server.client.rpush(key, "1")
            else:
                server.client.set(key, value)
            assert not await store.verdicts.is_empty(1)
            if spoilt == "version":
                assert await store.verdicts.version(1) is None  # and is taken away
            await find_empty(store.verdicts, 1)
            assert await store.verdicts.is_empty(1)

    asyncio.run(story())


@needs_redis
@pytest.mark.parametrize("value", [b"none", b"9223372036854775807", []])
def test_a_version_that_cannot_be_counted_on_does_not_survive_a_bump(
    server: RedisServer, value: Any
) -> None:
    async def story() -> None:
        async with in_redis(server) as store:
            for key in (key_of_version(), key_of_verdict()):
                if value == []:
                    server.client.rpush(key, "1")
                else:
                    server.client.set(key, value)
            store._bumper.bump(DATABASE, 1)
            gone = lambda: not server.client.exists(key_of_version())  # noqa: E731
            await asyncio.to_thread(until, gone, "the version is taken away")
            assert not await store.verdicts.is_empty(1)

    asyncio.run(story())


@needs_redis
def test_redis_flushed_between_look_and_verdict_makes_no_verdict_true(server: RedisServer) -> None:
    async def story() -> None:
        async with in_redis(server) as store:
            for _ in range(5):
                await store.bump(1)
            version = await store.verdicts.version(1)
            assert version is not None
            server.client.flushall()
            # As many bumps as before: were versions counted from a fixed number, they would agree.
            for _ in range(5):
                await store.bump(1)
            await store.verdicts.mark_empty(1, version)
            assert not await store.verdicts.is_empty(1)

    asyncio.run(story())


@needs_redis
def test_redis_paused_costs_its_budget_once_a_second_and_is_a_miss(server: RedisServer) -> None:
    async def story() -> None:
        async with in_redis(server) as store:
            await find_empty(store.verdicts, 1)
            server.signal(signal.SIGSTOP)
            try:
                before, began = failures(), time.monotonic()
                asked = [store.verdicts.is_empty(1) for _ in range(100)]
                assert not any(await asyncio.gather(*asked))
                assert await store.verdicts.version(1) is None
                await store.verdicts.mark_empty(1, 7)
                # Each that is not spared costs the budget; a slow machine may come to a second one.
                took_s = time.monotonic() - began
                assert 1 <= failures() - before <= 1 + took_s / REST_S
                assert took_s < 20 * BUDGET_S
            finally:
                server.signal(signal.SIGCONT)
            await _recovers(store)

    asyncio.run(story())


@needs_redis
def test_redis_killed_is_a_miss_and_its_successor_begins_empty(server: RedisServer) -> None:
    async def story() -> None:
        async with in_redis(server) as store:
            await find_empty(store.verdicts, 1)
            server.kill()
            assert not await store.verdicts.is_empty(1)
            assert await store.verdicts.version(1) is None
            server.start()
            assert not await store.verdicts.is_empty(1)
            await _recovers(store)

    asyncio.run(story())


async def _recovers(store: InRedis) -> None:
    async with asyncio.timeout(20):
        while not await store.verdicts.is_empty(1):
            version = await store.verdicts.version(1)
            if version is not None:
                await store.verdicts.mark_empty(1, version)
            await asyncio.sleep(0.02)


@needs_redis
def test_a_bump_that_redis_did_not_take_is_told_again(server: RedisServer) -> None:
    async def story() -> None:
        async with in_redis(server) as store:
            await find_empty(store.verdicts, 1)
            server.signal(signal.SIGSTOP)
            # Nobody waits for it. One that was slow for another reason does not count.
            took = []
            for _ in range(5):
                began = time.monotonic()
                store._bumper.bump(DATABASE, 1)
                took.append(time.monotonic() - began)
            assert min(took) < BUDGET_S / 2
            # The thread gives up once before Redis answers again.
            until(lambda: store._bumper._failing, "a bump failed")
            server.signal(signal.SIGCONT)
            await asyncio.to_thread(until, lambda: not store._bumper._failing, "it was told")
            await asyncio.sleep(REST_S)  # for so long this side asks nothing
            assert not await store.verdicts.is_empty(1)

    asyncio.run(story())


@needs_redis
def test_a_caller_that_goes_away_leaves_no_answer_behind_for_the_next(server: RedisServer) -> None:
    async def story() -> None:
        async with in_redis(server) as store:
            await find_empty(store.verdicts, 1)
            for number in range(50):
                gone = asyncio.ensure_future(store.verdicts.is_empty(1 + number % 2))
                await asyncio.sleep(0)
                gone.cancel()
                assert not await store.verdicts.is_empty(2)
            assert await store.verdicts.is_empty(1)

    asyncio.run(story())


def test_a_missing_library_and_a_url_that_is_none_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^redis.url: .*redis://"):
        Bumper(RedisSettings(url="http://localhost"))
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "from orchestrator.config import RedisSettings\n"
        "from orchestrator.wakeup.bumper import Bumper\n"
        "from orchestrator.errors import ConfigError\n"
        "try: Bumper(RedisSettings(url='redis://h'))\n"
        "except ConfigError as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert said.stdout.decode().strip() == (
        "redis.url is set, but the client is missing: install orchestrator[redis], or unset it"
    )
