"""Traces to simulate, and questions to ask of a run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from orchestrator.fairness.simulation.run import Run
from orchestrator.fairness.simulation.trace import Arrival

S = 1_000_000
MS = 1_000


def tasks(
    org: str,
    count: int,
    duration_us: int,
    *,
    at_us: int = 0,
    workload: str = "etl",
    priority: int = 5,
    critical: bool = False,
) -> list[Arrival]:
    return [Arrival(at_us, org, workload, priority, duration_us, critical)] * count


def most_running(run: Run, of: Callable[[int], bool]) -> int:
    """Return how many of the tasks that `of` names ran at once, at the most."""
    steps = []
    for task, start_us in enumerate(run.start_us):
        if start_us >= 0 and of(task):
            steps += [(start_us, 1), (start_us + run.trace.duration_us[task], -1)]
    return max(accumulate(step for _, step in sorted(steps)), default=0)


def of_org(run: Run, org: str) -> Callable[[int], bool]:
    place = run.trace.orgs.index(org)
    return lambda task: run.trace.org[task] == place
