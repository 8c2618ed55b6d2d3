"""A stretch of the past as a trace: what arrived, how long it took, on how many slots.

An arrival is an attempt: a retry comes again, with the worker time of its own. It came when the
task became eligible: enqueued or due, for a retry when the attempt before it ended. (What lies
between the two, backoff or a snooze, is written down nowhere, and is taken for waiting.) What ran
when the stretch began is left out. What waited then arrives at its start. What is unfinished now is
taken to need what its flow needs on average.

The tables are read in the direction in which tasks move, so that none is missed: staged, admitted,
ended. One that moved meanwhile is met twice, and counts where it was met last.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from orchestrator.errors import InvalidInput, UnknownQueue
from orchestrator.fairness import COUNT_COST_US, WorkloadClass
from orchestrator.fairness.simulation.policy import OrgSetting, SimPolicy
from orchestrator.fairness.simulation.trace import Arrival, Trace, trace_of
from orchestrator.policyfile import Draft
from orchestrator.store import leadership, orgs
from orchestrator.store.sql import Batch, Call, Operation, Rows, Statements

SQL = Statements("history")

# Rows of one statement: some tens of milliseconds, far from its timeout.
PAGE = 5_000
_FIRST_KEY = -(2**63)
_SECOND_US = 1_000_000
# Part of a slot that is taken for noise of the clock, not for another slot.
_NOISE = 0.1
_STEPS_MAX = 100_000

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class History:
    """The trace of a stretch; of its tasks, `waited` waited when it began, and `estimated` have not
    ended: how long they take is a guess.
    """

    trace: Trace
    window_s: float
    waited: int
    estimated: int


class _Attempt(NamedTuple):
    """What becomes an arrival; `claimed_us` is None while the task is not claimed."""

    org: str
    workload: str
    priority: int
    eligible_us: int
    duration_us: int
    claimed_us: int | None
    critical: bool


def configuration(name: str) -> Operation:
    """Return the `Draft` that is in force for queue `name`; raise `UnknownQueue`."""
    found = yield from leadership.queues([name])
    if not found:
        raise UnknownQueue(f"no queue {name!r}: `orchestrator queue list` names them")
    (queue,) = found
    tiers = yield from orgs.tiers()
    workloads = yield from orgs.workloads()
    configs = yield from orgs.all_orgs()
    policy = SimPolicy(
        capacity=queue.capacity,
        express_reserve=queue.express_reserve,
        headroom=queue.headroom,
        kappa=queue.kappa,
        tiers={tier.name: tier for tier in tiers},
        orgs={c.org: OrgSetting(c.tier, c.weight, c.burst_max, bool(c.paused_at)) for c in configs},
        workloads={
            w.name: _workload_class(w.share, w.rank, w.express, w.express_max_s) for w in workloads
        },
    )
    return Draft(policy, queue.policy, queue.cost_mode)


def read(
    queue: str, window_s: float, *, page: int = PAGE, progress: Progress = lambda _: None
) -> Operation:
    """Return the `History` of the last `window_s` seconds of a queue, in statements of `page` rows.

    `progress` is called with the rows read so far. Needs a connection in autocommit: each page is a
    transaction of its own. Raises `InvalidInput` where nothing arrived.
    """
    found = yield from leadership.queues([queue])
    if not found:
        raise UnknownQueue(f"no queue {queue!r}: `orchestrator queue list` names them")
    queue_id = found[0].id
    ((since, until_us, after_xid),) = yield from _page(SQL.call("stretch", window_s=window_s))
    rows = yield SQL.call("expected_us", queue=queue_id)
    expected_us = (rows[0][0] if rows else 0) or COUNT_COST_US
    reader = _Reader(_Stretch(queue_id, since, until_us, expected_us), page, progress)
    yield from reader.read_staged()
    yield from reader.read_admitted()
    yield from reader.read_ended(after_xid)
    return reader.history(queue, window_s)


def _workload_class(share: int, rank: int, express: bool, max_s: float | None) -> WorkloadClass:
    return WorkloadClass(share, rank, express, None if max_s is None else round(max_s * 1e6))


class _Stretch(NamedTuple):
    """Which queue and which time, and what a task takes of which nothing is known."""

    queue: int
    since: datetime
    until_us: int
    expected_us: int


class _Reader:
    """What was read so far."""

    def __init__(self, stretch: _Stretch, page: int, progress: Progress) -> None:
        self._stretch = stretch
        self._page = page
        self._progress = progress
        self._rows = 0
        self._unfinished: dict[int, _Attempt] = {}
        self._arrivals = _Columns()
        self._waited = 0
        self._usage = Usage(stretch.until_us)

    def read_staged(self) -> Operation:
        """Read what waits for admission."""
        key = ("", "", -(2**15), 0)
        while True:
            rows = yield from self._next(
                "staged",
                after_org=key[0],
                after_workload=key[1],
                after_priority=key[2],
                after_id=key[3],
            )
            for org, workload, _, task, priority, critical, eligible_us, cost_us in rows:
                duration_us = cost_us or self._stretch.expected_us
                self._unfinished[task] = _Attempt(
                    org, workload, priority, eligible_us, duration_us, None, critical
                )
            if len(rows) < self._page:
                return
            key = rows[-1][:4]

    def read_admitted(self) -> Operation:
        """Read what is ready or claimed."""
        after = _FIRST_KEY
        while True:
            rows = yield from self._next("admitted", after=after)
            for (
                _,
                task,
                org,
                workload,
                priority,
                critical,
                eligible_us,
                cost_us,
                used_us,
                claimed_us,
            ) in rows:
                duration_us = max(cost_us or self._stretch.expected_us, used_us or 0)
                self._unfinished[task] = _Attempt(
                    org, workload, priority, eligible_us, duration_us, claimed_us, critical
                )
            if len(rows) < self._page:
                return
            after = rows[-1][0]

    def read_ended(self, after: int) -> Operation:
        """Read the attempts of transactions later than `after`: the stretch, and up to now."""
        while True:
            rows = yield from self._next("ended", after=after)
            for (
                _,
                task,
                org,
                workload,
                priority,
                critical,
                eligible_us,
                claimed_us,
                ended_us,
                cost_us,
            ) in rows:
                self._usage.add(ended_us - cost_us, ended_us)
                if ended_us >= self._stretch.until_us:
                    self._unfinished.pop(task, None)
                self._arrive(
                    task,
                    _Attempt(org, workload, priority, eligible_us, cost_us, claimed_us, critical),
                )
            if len(rows) < self._page:
                return
            after = rows[-1][0]

    def history(self, queue: str, window_s: float) -> History:
        """Return everything that was read, in the order of time."""
        before = len(self._arrivals)
        for task, waiting in self._unfinished.items():
            self._arrive(task, waiting)
        if not len(self._arrivals):
            raise InvalidInput(
                f"nothing arrived in queue {queue!r} in the last {window_s:g} s:"
                " give --from-history more time, or another --queue"
            )
        trace = trace_of(self._arrivals.ordered(), slots=self._usage.slots)
        return History(trace, window_s, self._waited, len(self._arrivals) - before)

    def _next(self, statement: str, **params: object) -> Operation:
        call = SQL.call(
            statement,
            queue=self._stretch.queue,
            since=self._stretch.since,
            limit=self._page,
            **params,
        )
        rows = yield from _page(call)
        self._rows += len(rows)
        self._progress(self._rows)
        return rows

    def _arrive(self, task: int, attempt: _Attempt) -> None:
        org, workload, priority, eligible_us, duration_us, claimed_us, critical = attempt
        if eligible_us >= self._stretch.until_us:
            return
        if eligible_us < 0:
            if claimed_us is not None and claimed_us < 0:
                return
            self._waited += 1
        at_us, took_us = max(0, eligible_us), max(1, duration_us)
        self._arrivals.add(task, Arrival(at_us, org, workload, priority, took_us, critical))


class _Columns:
    """Arrivals in the order in which they were read; some 60 bytes each."""

    def __init__(self) -> None:
        self._task, self._at, self._duration = array("q"), array("q"), array("q")
        self._org, self._workload, self._priority = array("i"), array("i"), array("b")
        self._critical = array("b")
        self._orgs: dict[str, int] = {}
        self._workloads: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._at)

    def add(self, task: int, arrival: Arrival) -> None:
        """Append one."""
        self._task.append(task)
        self._at.append(arrival.at_us)
        self._org.append(self._orgs.setdefault(arrival.org, len(self._orgs)))
        self._workload.append(self._workloads.setdefault(arrival.workload, len(self._workloads)))
        self._priority.append(arrival.priority)
        self._duration.append(arrival.duration_us)
        self._critical.append(arrival.critical)

    def ordered(self) -> Iterator[Arrival]:
        """Yield them by time, those of one instant by task."""
        orgs, workloads = list(self._orgs), list(self._workloads)
        for n in sorted(range(len(self)), key=lambda n: (self._at[n] << 64) + self._task[n]):
            yield Arrival(
                self._at[n],
                orgs[self._org[n]],
                workloads[self._workload[n]],
                self._priority[n],
                self._duration[n],
                bool(self._critical[n]),
            )


class Usage:
    """Worker time by second, from when attempts ran; by longer steps where the stretch is long."""

    def __init__(self, until_us: int) -> None:
        self._step_us = max(_SECOND_US, until_us // _STEPS_MAX)
        steps = until_us // self._step_us + 1
        # Whole steps are counted by where they begin and end, broken ones by themselves.
        self._part, self._level = array("q", bytes(8 * steps)), array("q", bytes(8 * steps + 8))
        self._until_us = until_us

    def add(self, since_us: int, until_us: int) -> None:
        """Note an attempt that ran from `since_us` to `until_us`."""
        since_us, until_us = max(0, since_us), min(until_us, self._until_us)
        if since_us >= until_us:
            return
        first, last = since_us // self._step_us, until_us // self._step_us
        if first == last:
            self._part[first] += until_us - since_us
            return
        self._part[first] += (first + 1) * self._step_us - since_us
        self._part[last] += until_us - last * self._step_us
        self._level[first + 1] += 1
        self._level[last] -= 1

    @property
    def slots(self) -> int | None:
        """Return the most worker time that was used at once, second by second; None if none was."""
        running, most_us = 0, 0
        for part, change in zip(self._part, self._level, strict=False):
            running += change
            most_us = max(most_us, part + running * self._step_us)
        return max(1, math.ceil(most_us / self._step_us - _NOISE)) if most_us else None


def _page(call: Call) -> Operation:
    """Return the rows of `call`, in a short transaction of its own with plans that are steady."""
    steps = [SQL.call("begin"), SQL.call("steady"), call, SQL.call("commit")]
    answers: list[Rows] = yield Batch(steps)
    return answers[2]
