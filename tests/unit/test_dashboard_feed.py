"""One read for all who look: when it happens, who gets it, and when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from orchestrator.errors import DatabaseUnavailable
from orchestrator.server.dashboard import feed
from orchestrator.server.dashboard.feed import Feed


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "INTERVAL_S", 0.01)
    monkeypatch.setattr(feed, "_COST", 0)


def counting() -> Callable[[], Awaitable[int]]:
    reads = 0

    async def read() -> int:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        return reads

    return read


async def _take(source: Feed[int], count: int) -> list[int]:
    async with aclosing(source.watch()) as readings:
        return [(await anext(readings)).value for _ in range(count)]


def test_all_who_watch_share_each_read() -> None:
    async def scene() -> tuple[list[list[int]], int]:
        source = Feed(counting())
        return await asyncio.gather(*(_take(source, 4) for _ in range(50))), source.reads

    seen, reads = asyncio.run(scene())

    assert seen == [[1, 2, 3, 4]] * 50
    assert reads == 4


def test_nobody_watches_and_nothing_is_read() -> None:
    async def scene() -> tuple[int, int, bool]:
        source = Feed(counting())
        await _take(source, 2)
        after = source.reads
        await asyncio.sleep(0.1)
        return after, source.reads, source.idle

    after, later, idle = asyncio.run(scene())

    assert after == later
    assert idle


def test_who_comes_after_all_have_left_sees_what_is_new() -> None:
    async def scene() -> tuple[list[int], list[int]]:
        source = Feed(counting())
        return await _take(source, 2), await _take(source, 3)

    first, second = asyncio.run(scene())

    assert first == [1, 2]
    assert second[1:] == [3, 4]


def test_pages_that_are_opened_at_once_share_a_read_and_a_change_is_seen_at_once() -> None:
    async def scene() -> tuple[set[int], int]:
        source = Feed(counting())
        opened = await asyncio.gather(*(source.latest() for _ in range(20)))
        source.expire()
        return {each.value for each in opened}, (await source.latest()).value

    assert asyncio.run(scene()) == ({1}, 2)


def test_a_read_that_fails_ends_every_stream_and_the_next_one_tries_again() -> None:
    broken = False

    async def read() -> int:
        if broken:
            raise DatabaseUnavailable("gone")
        return 1

    async def scene() -> list[int]:
        nonlocal broken
        source = Feed(read)
        seen = []
        async for reading in source.watch():
            seen.append(reading.value)
            broken = True
        broken = False
        return [*seen, (await _take(source, 2))[-1]]

    assert asyncio.run(scene()) == [1, 1]


def test_a_process_that_ends_waits_for_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "INTERVAL_S", 3600.0)

    async def scene() -> list[int]:
        source = Feed(counting())
        seen = []
        async for reading in source.watch():
            seen.append(reading.value)
            asyncio.get_running_loop().call_later(0.05, source.drain)
        return seen

    assert asyncio.run(scene()) == [1]


def test_a_slow_read_is_repeated_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    nap = asyncio.sleep

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        await nap(0)

    now = 0.0

    async def read() -> int:
        nonlocal now
        now += 3.0
        return 1

    monkeypatch.setattr(feed, "_COST", 20)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(_take(Feed(read, clock=lambda: now), 3))

    assert max(naps) == 60.0
