"""Whether tasks start when `explain` says they will, beside a noisy neighbour.

One org keeps a backlog of hundreds of tasks, six others come in bursts, tasks take 5 to 50 ms. At
many moments a waiting task is explained; later its true start is compared with the interval that
was stated. A share far below the stated probability means that intervals lie, one far above it that
they are too wide to be of use: so their width is given in units of the wait.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from benchmarks.stage import QUEUE, Stage, stage, wait_for
from orchestrator.demo.processes import WORKER
from orchestrator.model import EXPECTED_PROBABILITY, Explanation, TaskSpec
from orchestrator.store import leadership
from orchestrator.store.sql import run as drive

SECONDS = 60.0
QUICK_SECONDS = 8.0
NOISY = "noisy"
# The others: tasks in a burst, seconds between two bursts, milliseconds of a task.
TRICKLES = {
    "single": (1, 0.15, 20),
    "few": (4, 0.7, 10),
    "burst": (12, 1.5, 5),
    "large": (40, 4.0, 15),
    "heavy": (6, 1.2, 50),
    "bulk": (150, 8.0, 20),
}
# Enough that the noisy org never runs out, few enough that its last task starts within the run.
BACKLOG = 800
_TOP_UP = 40
WORKERS, CONCURRENCY = 2, 4
# Until the costs of the tasks are known.
_WARM_UP_S = 5.0
# Fewer samples than this say little, so a slow machine gets up to so many times the time.
_SAMPLES_MIN = 150
_SLOWER_MAX = 4
_SEED = 20_220_901
# Waits shorter than this are as good as none: their ratio says nothing.
_INSTANT_S = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """One explanation of a waiting task, and when that task really started."""

    org: str
    at: datetime
    expected_s: float
    low_s: float
    high_s: float
    waited_s: float

    @property
    def inside(self) -> bool:
        """Tell whether the task started within the interval."""
        return self.low_s <= self.waited_s <= self.high_s


@dataclass(slots=True)
class Neighbours:
    """Feeds the queue, and explains tasks that wait, for so many seconds."""

    on: Stage
    seconds: float
    explain: Callable[[int], Explanation]
    random: random.Random = field(default_factory=lambda: random.Random(_SEED))
    explained: list[Explanation] = field(default_factory=list)
    unknown: int = 0

    def run(self) -> None:
        """Feed and ask until the time is over; then wait until all that was asked has started."""
        due = dict.fromkeys(TRICKLES, 0.0)
        began = time.monotonic()
        while self._goes_on(now := time.monotonic() - began):
            self._feed(now, due)
            if now > _WARM_UP_S:
                self._ask()
        asked = [explanation.id for explanation in self.explained]
        wait_for(lambda: len(self._starts(asked)) == len(set(asked)), "the tasks to start", 120)

    def _goes_on(self, now: float) -> bool:
        """Tell whether to ask on: for the time given, and on a slow machine for some more."""
        asked_s = now - _WARM_UP_S
        few = len(self.explained) < _SAMPLES_MIN
        return asked_s < self.seconds or (few and asked_s < _SLOWER_MAX * self.seconds)

    def samples(self) -> list[Sample]:
        """Return what was stated beside what came true."""
        starts = self._starts([explanation.id for explanation in self.explained])
        return [_sample(explanation, starts[explanation.id]) for explanation in self.explained]

    def _feed(self, now: float, due: dict[str, float]) -> None:
        if self._staged(NOISY) < BACKLOG:
            costs = self.random.choices([5, 10, 20, 50], [2, 3, 3, 2], k=_TOP_UP)
            self._enqueue(NOISY, costs)
        for org, (tasks, every_s, ms) in TRICKLES.items():
            if now >= due[org]:
                self._enqueue(org, [ms] * tasks)
                due[org] = now + self.random.expovariate(1 / every_s)

    def _enqueue(self, org: str, costs: Sequence[int]) -> None:
        self.on.client.enqueue_many(
            [TaskSpec(name="work", payload={"ms": ms}, org=org) for ms in costs]
        )

    def _staged(self, org: str) -> int:
        return int(
            self._one("select count(*) from orchestrator.staging_queue where org_id = %s", org)
        )

    def _ask(self) -> None:
        """Explain one waiting task: of the noisy org every third time, else of any other one."""
        noisy = self.random.random() < 1 / 3
        task_id = self._one(
            "with waiting as materialized ("
            " select task_id, org_id from orchestrator.staging_queue"
            " union all"
            " select task_id, org_id from orchestrator.task_queue where claim_id is null)"
            " select (select task_id from waiting where org_id = ("
            "   select org_id from (select distinct org_id from waiting where (org_id = %s) = %s)"
            "   orgs order by random() limit 1) order by random() limit 1)",
            NOISY,
            noisy,
        )
        if task_id is None:
            return
        explanation = self.explain(task_id)
        if explanation.expected_start_at is not None:
            self.explained.append(explanation)
        else:
            self.unknown += explanation.place in ("staged", "ready")

    def _starts(self, ids: Sequence[int]) -> dict[int, datetime]:
        rows = self.on.connection.execute(
            "select task_id, min(claimed_at) from ("
            " select task_id, claimed_at from orchestrator.task_attempt where task_id = any (%s)"
            " union all select task_id, claimed_at from orchestrator.task_queue"
            " where task_id = any (%s)) started where claimed_at is not null group by task_id",
            [list(ids), list(ids)],
        ).fetchall()
        return dict(rows)

    def _one(self, query: str, *params: object) -> Any:
        row = self.on.connection.execute(query.encode(), params).fetchone()
        assert row is not None
        return row[0]


def run(quick: bool) -> dict[str, object]:
    """Return how often tasks started inside their interval, and how wide and biased it was."""
    with stage() as on:
        start(on)
        neighbours = Neighbours(on, QUICK_SECONDS if quick else SECONDS, on.client.explain)
        neighbours.run()
        return figures(neighbours.samples(), neighbours.unknown)


def start(on: Stage) -> None:
    """Start a replica and the workers, and wait until they are up."""
    on.start_replica()
    for _ in range(WORKERS):
        on.processes.start(*WORKER, "--concurrency", str(CONCURRENCY))
    wait_for(lambda: on.parked() >= WORKERS * CONCURRENCY, "the workers")
    wait_for(lambda: drive(on.connection, leadership.leaders())[QUEUE - 1].alive, "a leader")


def figures(samples: Sequence[Sample], unknown: int) -> dict[str, object]:
    """Return the figures of the samples, overall and for the noisy org and the others."""
    noisy = [sample for sample in samples if sample.org == NOISY]
    others = [sample for sample in samples if sample.org != NOISY]
    figures: dict[str, object] = {
        "stated_probability": EXPECTED_PROBABILITY,
        "samples": len(samples),
        "without_expectation": unknown,
        "inside": _share(samples),
        "inside_noisy": _share(noisy),
        "inside_others": _share(others),
        "earlier_than_stated": round(_mean([s.waited_s < s.low_s for s in samples]), 3),
        "later_than_stated": round(_mean([s.waited_s > s.high_s for s in samples]), 3),
    }
    for name, chosen in (("noisy", noisy), ("others", others)):
        waits = [sample for sample in chosen if sample.waited_s > _INSTANT_S]
        figures |= {
            f"wait_median_s_{name}": _median([s.waited_s for s in chosen]),
            f"width_median_s_{name}": _median([s.high_s - s.low_s for s in chosen]),
            f"width_per_wait_{name}": _median([(s.high_s - s.low_s) / s.waited_s for s in waits]),
            f"expected_per_wait_{name}": _median([s.expected_s / s.waited_s for s in waits]),
        }
    return figures


def _share(samples: Sequence[Sample]) -> float:
    return round(_mean([sample.inside for sample in samples]), 3)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3) if values else 0.0


def _sample(explanation: Explanation, started_at: datetime) -> Sample:
    expected, low, high = (
        (moment - explanation.at).total_seconds() if moment else 0.0
        for moment in (
            explanation.expected_start_at,
            explanation.expected_start_low_at,
            explanation.expected_start_high_at,
        )
    )
    waited_s = (started_at - explanation.at).total_seconds()
    return Sample(explanation.org, explanation.at, expected, low, high, waited_s)
