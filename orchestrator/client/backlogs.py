"""`backlog_max`: an org of which so much waits already enqueues nothing more.

Where nobody has a bound, which is asked every few seconds, enqueueing costs nothing more. Where
somebody has, what waits of the org is counted before it enqueues, up to the bound; a count that
leaves room lets a part of that room in without another one. So the bound is approached, and passed
by at most what several processes let in at the same moment; it takes effect within `_LOOK_S`.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence

from orchestrator.errors import BacklogFull
from orchestrator.model import TaskSpec
from orchestrator.store import backlog
from orchestrator.store.sql import Operation

_LOOK_S = 2.0
# How long what a count left is let in without another; and which part of it, at most.
_TRUST_S = 1.0
_TRUSTED_PART = 16
_ORGS_KEPT = 10_000


class Backlogs:
    """What one process knows of bounds and of the room below them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # None: that is not known. Others may come while the first one asks.
        self._bounded: bool | None = None
        self._looked = float("-inf")
        # Per queue and org: until when, and how many more; None is as many as come.
        self._room: OrderedDict[tuple[int, str], tuple[float, int | None]] = OrderedDict()

    def bounded(self) -> Operation:
        """Tell whether anybody has a bound."""
        if self._bounded is None or self._clock() - self._looked >= _LOOK_S:
            self._looked = self._clock()
            try:
                self._bounded = yield from backlog.bounded()
            except BaseException:
                self._bounded = None
                raise
        return self._bounded

    def surely_unbounded(self) -> bool:
        """Tell, without asking anew, whether nobody has a bound."""
        return self._bounded is False and self._clock() - self._looked < _LOOK_S

    def check(self, queue: int, specs: Sequence[TaskSpec]) -> Operation:
        """Return if all of `specs` may wait in `queue`; raise `BacklogFull`.

        A task whose idempotency key is held is there already, and takes no room.
        """
        counts = Counter(spec.org for spec in specs)
        counted = [org for org, count in counts.items() if not self._took(queue, org, count)]
        if not counted:
            return
        found: list[backlog.Backlog] = yield from backlog.backlogs(queue, counted)
        new = None
        for org, most, waiting in found:
            left = None if most is None or waiting is None else most - waiting - counts[org]
            if left is not None and left < 0:
                new = (yield from _new(queue, specs)) if new is None else new
                left += counts[org] - new[org]
                if left < 0 and new[org]:
                    raise BacklogFull(_refusal(org, most or 0, waiting or 0, new[org]))
            self._leave(queue, org, left)

    def _took(self, queue: int, org: str, count: int) -> bool:
        until, room = self._room.get((queue, org), (0.0, 0))
        if until <= self._clock() or (room is not None and room < count):
            return False
        if room is not None:
            self._room[queue, org] = (until, room - count)
        return True

    def _leave(self, queue: int, org: str, left: int | None) -> None:
        room = None if left is None else max(0, left) // _TRUSTED_PART
        self._room[queue, org] = (self._clock() + _TRUST_S, room)
        self._room.move_to_end((queue, org))
        if len(self._room) > _ORGS_KEPT:
            self._room.popitem(last=False)


def _new(queue: int, specs: Sequence[TaskSpec]) -> Operation:
    """Return how many of `specs` each org has that are not there already."""
    keyed = [(spec.org, spec.idempotency_key) for spec in specs if spec.idempotency_key is not None]
    held = (yield from backlog.held(queue, keyed)) if keyed else set()
    new = Counter(spec.org for spec in specs if spec.idempotency_key is None)
    new.update(org for position, (org, _) in enumerate(keyed) if position not in held)
    return new


def _refusal(org: str, most: int, waiting: int, count: int) -> str:
    if count > most:
        return (
            f"{count} tasks of org {org!r} exceed its backlog_max of {most}: enqueue fewer at once"
        )
    return (
        f"org {org!r} has {waiting} tasks waiting, and may have {most} (backlog_max): enqueue "
        "again once some have started"
    )
