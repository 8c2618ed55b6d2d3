"""Who should yield: which running tasks of an org make room for its critical tasks that wait.

One request for each critical task that finds no slot, made to the running task of the lowest
priority; among equals, to the one that has run for the shortest time, of which the least is lost.
Only a task of lower priority than the critical one is asked. A task that stops anyway, because it
was cancelled, covers a critical task too. Requests that no critical task needs any more, and that
no task obeyed yet, are withdrawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from orchestrator.model import Instant


class Running(NamedTuple):
    """A running task that is not critical: its claim, and what it was told by now."""

    org: str
    claim_id: UUID
    dispatch_key: int
    task_id: int
    priority: int
    claimed_at: Instant
    asked: bool
    cancelled: bool


class Requests(NamedTuple):
    """Which running tasks are asked to yield now, and which are asked no more."""

    ask: list[Running]
    withdraw: list[Running]


def requests(waiting: Sequence[int], running: Sequence[Running], free: int) -> Requests:
    """Decide for one org: `waiting` are the priorities of its critical tasks in their order.

    The first `free` of them find a slot without anybody's help.
    """
    uncovered = list(waiting[max(0, free) :])
    # Whoever stops frees a slot for the first of them.
    del uncovered[: sum(task.cancelled for task in running)]
    # From below, so that as many as can be find one to ask; which slot is whose is told by their
    # order in the flow.
    uncovered.sort()
    candidates = sorted((task for task in running if not task.cancelled), key=_yields_first)
    asked = [task for task in candidates if task.asked]
    others = [task for task in candidates if not task.asked]
    ask = []
    for priority in uncovered:
        # Who was asked already is not asked again, nor is another in his place.
        if asked and asked[0].priority < priority:
            del asked[0]
        elif others and others[0].priority < priority:
            ask.append(others.pop(0))
    return Requests(ask, withdraw=asked)


def _yields_first(task: Running) -> tuple[int, float]:
    return task.priority, -task.claimed_at.timestamp()
