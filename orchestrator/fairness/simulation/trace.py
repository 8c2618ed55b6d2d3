"""A trace: what arrived when, for whom, and how long it takes; compact enough for millions."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.errors import InvalidInput
from orchestrator.model import NAME_MAX_CHARS, PRIORITY_MAX, PRIORITY_MIN


class Arrival(NamedTuple):
    """One task: staged `at_us` after the start of the trace, it will take `duration_us`.

    A critical one goes before all other work of its org.
    """

    at_us: int
    org: str
    workload: str
    priority: int
    duration_us: int
    critical: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Trace:
    """Arrivals in the order of time, a column each: about 26 bytes per task.

    `org` and `workload` hold places in `orgs` and `workloads`, which are in the order of first
    arrival. `slots` is what the trace was taken with, where it says so.
    """

    orgs: tuple[str, ...]
    workloads: tuple[str, ...]
    at_us: array[int]
    org: array[int]
    workload: array[int]
    priority: array[int]
    duration_us: array[int]
    critical: array[int]
    slots: int | None = None

    def __len__(self) -> int:
        return len(self.at_us)

    def __iter__(self) -> Iterator[Arrival]:
        return (self.arrival(task) for task in range(len(self)))

    def arrival(self, task: int) -> Arrival:
        """Return the arrival number `task`."""
        return Arrival(
            self.at_us[task],
            self.orgs[self.org[task]],
            self.workloads[self.workload[task]],
            self.priority[task],
            self.duration_us[task],
            bool(self.critical[task]),
        )

    def demanding(self, count: int) -> list[int]:
        """Return the places of the `count` orgs that ask for the most worker time, most first."""
        demand = [0] * len(self.orgs)
        for org, duration_us in zip(self.org, self.duration_us, strict=True):
            demand[org] += duration_us
        return sorted(range(len(demand)), key=lambda org: -demand[org])[:count]


def complaint(arrival: Arrival, earliest_us: int) -> str | None:
    """Return what is wrong with an arrival that follows one at `earliest_us`, and what to do."""
    if arrival.at_us < earliest_us:
        return f"at {arrival.at_us} us lies before {earliest_us} us: sort the arrivals by time"
    if not 1 <= len(arrival.org) <= NAME_MAX_CHARS:
        return f"org must have 1 to {NAME_MAX_CHARS} characters"
    if not 1 <= len(arrival.workload) <= NAME_MAX_CHARS:
        return f"workload must have 1 to {NAME_MAX_CHARS} characters"
    if not PRIORITY_MIN <= arrival.priority <= PRIORITY_MAX:
        return f"priority {arrival.priority} must be {PRIORITY_MIN} to {PRIORITY_MAX}"
    if arrival.duration_us < 1:
        return f"the duration must be at least 1 us, not {arrival.duration_us}"
    return None


def trace_of(arrivals: Iterable[Arrival], *, slots: int | None = None) -> Trace:
    """Return the trace of `arrivals`; raise `InvalidInput` for one that cannot be simulated."""
    return collect(_checked(arrivals), slots=slots)


def collect(arrivals: Iterable[Arrival], *, slots: int | None = None) -> Trace:
    """Return the trace of `arrivals` that were found to be right and in order."""
    orgs: dict[str, int] = {}
    workloads: dict[str, int] = {}
    at, org, workload, priority, duration, critical = (array(code) for code in "qiibqb")
    for at_us, name, kind, urgency, duration_us, is_critical in arrivals:
        at.append(at_us)
        org.append(orgs.setdefault(name, len(orgs)))
        workload.append(workloads.setdefault(kind, len(workloads)))
        priority.append(urgency)
        duration.append(duration_us)
        critical.append(is_critical)
    columns = (at, org, workload, priority, duration, critical)
    return Trace(tuple(orgs), tuple(workloads), *columns, slots)


def _checked(arrivals: Iterable[Arrival]) -> Iterator[Arrival]:
    earliest_us = 0
    for number, arrival in enumerate(arrivals, 1):
        if wrong := complaint(arrival, earliest_us):
            raise InvalidInput(f"arrival {number}: {wrong}")
        earliest_us = arrival.at_us
        yield arrival
