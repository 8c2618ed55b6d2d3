"""How many slots a round may give away: capacity, ready window, express reserve.

The reserve is not borrowable: what ordinary work could borrow would not be free when a short task
comes. It exists only where some workload is express.
"""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.fairness.scheduler import Scheduler

# A tenth of the slots, unless the queue says otherwise.
_RESERVE_PART = 10


class Limits(NamedTuple):
    """What a queue may hold: `capacity` admitted and unfinished tasks (None = no bound), of which
    `reserve` are kept for express work (None = a tenth).
    """

    capacity: int | None = None
    reserve: int | None = None


class Ready(NamedTuple):
    """Tasks admitted and unclaimed: ordinary ones, and those of express flows."""

    main: int = 0
    express: int = 0


class Slots(NamedTuple):
    """Free slots of a round: ordinary ones, and those of the reserve."""

    main: int
    express: int


def reserve_of(total: int, wanted: int | None) -> int:
    """Return how many of `total` slots are kept for express work: a tenth, never the last one."""
    reserve = max(1, total // _RESERVE_PART) if wanted is None else wanted
    return max(0, min(reserve, total - 1))


def free_slots(scheduler: Scheduler, limits: Limits, window: int, ready: Ready) -> Slots:
    """Return the slots that this round may fill, never below 0.

    `window` is how many ready tasks there should be besides the reserve.
    """
    wanted = limits.reserve if scheduler.has_express else 0
    reserve = reserve_of(window + 1, wanted)
    main = window - ready.main - max(0, ready.express - reserve)
    express = reserve - ready.express
    if limits.capacity is not None:
        kept = reserve_of(limits.capacity, wanted)
        left = limits.capacity - scheduler.in_flight
        main = max(0, min(main, left, limits.capacity - kept - scheduler.main.in_flight))
        # A lane may hold more than its part for a while after an operator changed the parts.
        express = min(express, left - main, kept - scheduler.express.in_flight)
    return Slots(max(0, main), max(0, express))
