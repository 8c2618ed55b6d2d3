"""What each screen is made of, read in one transaction, so that its numbers fit each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request

from orchestrator.errors import UnknownQueue
from orchestrator.model import QueueConfig
from orchestrator.server.dashboard.feed import Feed
from orchestrator.server.dashboard.state import dashboard
from orchestrator.server.services import Database, services
from orchestrator.store import leadership
from orchestrator.store.leadership import LeadershipEvent
from orchestrator.store.overview import Overview, TickLine, one_snapshot, overview, ticks
from orchestrator.store.sql import Operation

_TICKS = 15
_EVENTS = 12


@dataclass(frozen=True, slots=True)
class QueueView:
    """One queue, and the names of all."""

    queues: tuple[str, ...]
    now: Overview


@dataclass(frozen=True, slots=True)
class QueuesView:
    """Every queue."""

    queues: tuple[str, ...]
    all: Sequence[Overview]


@dataclass(frozen=True, slots=True)
class LeaderView:
    """One queue, who led it, and what its leader decided."""

    queues: tuple[str, ...]
    now: Overview
    ticks: Sequence[TickLine]
    events: Sequence[LeadershipEvent]


async def look(request: Request, operation: Operation) -> Any:
    """Run an operation that reads, in one snapshot."""
    return await _read(services(request).database, lambda: operation)


def queue_feed(request: Request, name: str) -> Feed[QueueView]:
    """Return the feed of one queue."""
    return _feed(request, ("queue", name), partial(_queue, name))


def queues_feed(request: Request) -> Feed[QueuesView]:
    """Return the feed of every queue."""
    return _feed(request, ("queues", ""), _queues)


def leader_feed(request: Request, name: str) -> Feed[LeaderView]:
    """Return the feed of one queue's leader."""
    return _feed(request, ("leader", name), partial(_leader, name))


def _feed(request: Request, key: tuple[str, str], operation: Callable[[], Operation]) -> Feed[Any]:
    database = services(request).database
    return dashboard(request).feeds.of(key, partial(_read, database, operation))


async def _read(database: Database, operation: Callable[[], Operation]) -> Any:
    return await database.do(one_snapshot(operation()), atomic=True)


def chosen(queues: Sequence[QueueConfig], name: str) -> QueueConfig:
    """Return the queue of this name; the first where none is named."""
    found = next((each for each in queues if name in ("", each.name)), None)
    if found is None:
        raise UnknownQueue(f"no queue {name!r}: the Queues screen names them")
    return found


def _queue(name: str) -> Operation:
    queues = yield from leadership.queues()
    now = yield from overview(chosen(queues, name))
    return QueueView(_names(queues), now)


def _queues() -> Operation:
    queues = yield from leadership.queues()
    found = []
    for queue in queues:
        now = yield from overview(queue)
        found.append(now)
    return QueuesView(_names(queues), found)


def _leader(name: str) -> Operation:
    queues = yield from leadership.queues()
    queue = chosen(queues, name)
    now = yield from overview(queue)
    lines = yield from ticks(queue.id, _TICKS)
    events = yield from leadership.history(queue.id, _EVENTS)
    return LeaderView(_names(queues), now, lines, events)


def _names(queues: Sequence[QueueConfig]) -> tuple[str, ...]:
    return tuple(each.name for each in queues)
