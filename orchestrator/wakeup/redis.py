"""The verdicts of many processes, in Redis.

Of each queue there are two keys: its version, moved on by `INCR`, and the verdict, whose value is
the version it was given under. A poll reads both with one `MGET` and believes the verdict where the
two are the same number. Anything else, a missing key included, reads as "not known to be empty".

A version begins at a random number. After Redis lost its data it would otherwise count from 1 again
and could come by a number under which a look from before is still to be marked.

Every call has `BUDGET_S`. After a failure Redis is left alone for `REST_S`: were each of a thousand
polls to wait for a store that hangs, it would be slower than none.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import structlog

from orchestrator.config import RedisSettings, redact
from orchestrator.errors import ConfigError
from orchestrator.telemetry import metrics
from orchestrator.wakeup.empty import clamped

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = structlog.get_logger()

T = TypeVar("T")

BUDGET_S = 0.25
REST_S = 1.0
# A version that nobody asked for or moved on for a day is of a queue that nobody uses.
VERSION_TTL_S = 86_400
_VERSION_BITS = 60
_NUMBER = re.compile(rb"[0-9]{1,19}")
_CONNECTIONS_MAX = 16


class Keys(NamedTuple):
    """The names of one database's keys, in one slot of a cluster.

    `database` is what `store.leadership.database_id` tells: queues are numbers, the same in each.
    """

    prefix: str
    database: str

    def version(self, queue: int) -> str:
        """Return the key of a queue's version."""
        return f"{self.prefix}:{{{self.database}}}:version:{queue}"

    def verdict(self, queue: int) -> str:
        """Return the key of what was found of a queue."""
        return f"{self.prefix}:{{{self.database}}}:empty:{queue}"


def first_version() -> int:
    """Draw a version to begin with, that leaves room to count for ever."""
    return random.getrandbits(_VERSION_BITS)


def opened(settings: RedisSettings, *, blocking: bool) -> Any:
    """Return a client of the library, for threads or for an event loop; connects when first used.

    Raises `ConfigError` where the library is missing or `redis.url` is no URL.
    """
    assert settings.url is not None
    try:
        import redis.asyncio
        from redis.backoff import NoBackoff
    except ModuleNotFoundError as error:
        raise ConfigError(
            "redis.url is set, but the client is missing: install orchestrator[redis], or unset it"
        ) from error
    options: dict[str, Any] = {
        "socket_timeout": BUDGET_S,
        "socket_connect_timeout": BUDGET_S,
        "decode_responses": False,
        "client_name": "orchestrator",
        "max_connections": _CONNECTIONS_MAX,
    }
    try:
        if blocking:
            # One thread, which comes again itself.
            retry = redis.retry.Retry(NoBackoff(), 0)
            return redis.Redis.from_url(settings.url, retry=retry, **options)
        aretry = redis.asyncio.retry.Retry(NoBackoff(), 0)
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            settings.url, timeout=BUDGET_S, retry=aretry, **options
        )
        return redis.asyncio.Redis.from_pool(pool)
    except ValueError:
        # Without the cause, which may quote a part of the password.
        raise ConfigError(
            "redis.url: it cannot be read: give redis://user:password@host:6379/0, rediss://... or "
            "unix:///path, special characters as %XX"
        ) from None


def bump_by(pipe: Any, key: str) -> None:
    """Queue the commands that move a version on, whether it is there or not."""
    pipe.set(key, first_version(), nx=True, ex=VERSION_TTL_S)
    pipe.incr(key)
    pipe.expire(key, VERSION_TTL_S)


class RedisVerdicts:
    """Verdicts in Redis, for one event loop."""

    def __init__(self, settings: RedisSettings, database: str | None = None) -> None:
        """Keep the verdicts of this database, nothing until it is known; see `opened`."""
        self.database = database
        self._client: Redis = opened(settings, blocking=False)
        self._prefix = settings.prefix
        self._ttl_ms = round(clamped(settings.verdict_ttl_s) * 1000)
        self._rest_until = float("-inf")
        self._failing = False
        self._one = asyncio.Lock()
        self._gathering: _Round | None = None
        self._flights: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*self._flights, return_exceptions=True)
        await self._client.aclose()

    async def is_empty(self, queue: int) -> bool:
        """Tell whether the queue is known to be empty.

        One call is under way at a time; who comes meanwhile shares the next one, which begins after
        they came, so that nobody is told what was true before they asked.
        """
        mine = self._gathering
        if mine is None:
            mine = self._gathering = _Round(set(), asyncio.get_running_loop().create_future())
            flight = asyncio.create_task(self._fly(mine))
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)
        mine.queues.add(queue)
        return queue in await asyncio.shield(mine.empty)

    async def version(self, queue: int) -> int | None:
        """Return the version to mark the queue empty with; begin one where there is none."""
        if self._keys is None:
            return None
        key = self._keys.version(queue)

        async def ask() -> int | None:
            pipe = self._client.pipeline()
            pipe.set(key, first_version(), nx=True, ex=VERSION_TTL_S)
            pipe.getex(key, ex=VERSION_TTL_S)
            version = _number((await pipe.execute(raise_on_error=False))[1])
            if version is None:  # something else was stored there: begin anew next time
                await self._client.delete(key)
            return version

        return await self._within(ask, None)

    async def mark_empty(self, queue: int, version: int) -> None:
        """Note that a look which began after `version` was read found nothing."""
        if self._keys is not None:
            key = self._keys.verdict(queue)
            await self._within(lambda: self._client.set(key, version, px=self._ttl_ms), None)

    @property
    def _keys(self) -> Keys | None:
        return None if self.database is None else Keys(self._prefix, self.database)

    async def _fly(self, mine: _Round) -> None:
        empty: set[int] = set()
        try:
            async with self._one:
                self._gathering = None  # who comes from now on is of the next round
                empty = await self._within(lambda: self._look(sorted(mine.queues)), empty)
        finally:
            mine.empty.set_result(empty)

    async def _look(self, queues: Sequence[int]) -> set[int]:
        if self._keys is None:
            return set()
        names = (self._keys.version, self._keys.verdict)
        values = await self._client.mget([key(queue) for queue in queues for key in names])
        pairs = zip(queues, values[::2], values[1::2], strict=True)
        return {queue for queue, version, verdict in pairs if _agree(version, verdict)}

    async def _within(self, call: Callable[[], Awaitable[T]], missing: T) -> T:
        """Return the answer of a call, `missing` where there was none in time."""
        if time.monotonic() < self._rest_until:
            return missing
        try:
            async with asyncio.timeout(BUDGET_S):
                answer = await call()
        except Exception as error:  # noqa: BLE001 - a cache: whatever goes wrong with it is a miss
            self._rest_until = time.monotonic() + REST_S
            metrics.FASTPATH_FAILURES.labels("redis").inc()
            if not self._failing:
                log.warning("redis.failed", error=redact(str(error)) or type(error).__name__)
            self._failing = True
            return missing
        if self._failing:
            log.info("redis.answers")
        self._failing = False
        return answer


class _Round(NamedTuple):
    """Queues that are asked about together, and those of them that are known to be empty."""

    queues: set[int]
    empty: asyncio.Future[set[int]]


def _agree(version: object, verdict: object) -> bool:
    """Tell whether a verdict was given under the version in force: two equal numbers."""
    number = _number(version)
    return number is not None and number == _number(verdict)


def _number(value: object) -> int | None:
    """Return what Redis holds as the number it should be; None for everything else."""
    return int(value) if isinstance(value, bytes) and _NUMBER.fullmatch(value) else None
