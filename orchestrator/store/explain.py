"""Reads the facts of an explanation in one snapshot, and has it built.

A bounded number of statements, none of them O(backlog): positions and slots are counted up to a
bound, flows up to another, and of the log of ticks the last minute is read, at most so many rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

from orchestrator.errors import TaskNotFound
from orchestrator.fairness.explanation.explain import explained
from orchestrator.fairness.explanation.facts import (
    Counted,
    Facts,
    FlowFacts,
    LastAttempt,
    OrgFacts,
    Pulse,
    QueueFacts,
    RecentFlow,
    TaskFacts,
)
from orchestrator.model import DEPTH_MAX, AttemptStatus, CostMode, Place, Policy
from orchestrator.store import admission, leadership
from orchestrator.store.leadership import Leadership
from orchestrator.store.names import MAIN_MIN
from orchestrator.store.packed import Int8s
from orchestrator.store.preemption import CRITICAL
from orchestrator.store.sql import Batch, Call, Operation, Row, Rows, Statements

SQL = Statements("explain")

# Flows of the line, and tasks that hold slots, that one explanation looks at.
_FLOWS_MAX = 1_000
_SLOTS_MAX = 10_000
# Flows of one org: each has at most twelve bands of priority.
_BANDS_MAX = 600
# A flow that the leader has yet to hear of is counted this far.
_NEW_BACKLOG_MAX = 100
# Tasks that hold an org's slots and are named.
_NAMED_MAX = 20
# The log of ticks: a minute is what `forecast` looks back for, and a busy leader ticks 200 times a
# second.
_WINDOW_S = 60.0
_PULSES_MAX = 2_000


class _Found(NamedTuple):
    """The task's record and the one place it is in."""

    id: int
    queue: int
    at: datetime
    org: str
    workload: str
    priority: int
    max_attempts: int
    place: Row | None

    @property
    def is_waiting(self) -> bool:
        return self.place is not None and self.place[0] in (Place.STAGED, Place.SCHEDULED)

    @property
    def is_critical(self) -> bool:
        """Tell whether it waits above all others of its flow."""
        return self.is_waiting and self.place is not None and self.place[2] == CRITICAL


def explain(task_id: int) -> Operation:
    """Return the `Explanation` of `task_id`; needs a transaction of its own.

    Raises `TaskNotFound`.
    """
    return explained((yield from facts(task_id)))


def facts(task_id: int) -> Operation:
    """Return the `Facts` about `task_id`; needs a transaction of its own. Raises `TaskNotFound`."""
    yield SQL.call("frozen")
    yield SQL.call("steady")
    rows = yield SQL.call("task", id=task_id)
    if not rows:
        raise TaskNotFound(f"no task {task_id}")
    queue, at, org, workload, priority, max_attempts = rows[0]
    places = yield SQL.call(
        "place", queue=queue, id=task_id, org=org, workload=workload, priority=priority
    )
    found = _Found(
        *(task_id, queue, _utc(at), org, workload, priority, max_attempts),
        place=places[0] if places else None,
    )
    workers = yield from admission.parked_concurrency(queue)
    leaders: list[Leadership] = yield from leadership.leaders()
    ahead = yield from _position(found)
    answers = yield Batch(_calls(found))
    (leader,) = [leader for leader in leaders if leader.queue == queue]
    known = _facts(found, ahead, answers, leader.holder if leader.alive else None, workers)
    if not found.is_critical or not known.holders:
        return known
    rows = yield SQL.call("asked", queue=queue, ids=Int8s(known.holders))
    return replace(known, asked=tuple(row[0] for row in rows))


def _position(found: _Found) -> Operation:
    """Return how many tasks of the flow go first: beyond the bound, about so many."""
    if not found.is_waiting or found.place is None:
        return Counted(0)
    flow = {"queue": found.queue, "org": found.org, "workload": found.workload}
    priority = found.place[2]
    rows = yield SQL.call(
        "position", **flow, id=found.id, neg_priority=priority, most=DEPTH_MAX + 1
    )
    if rows[0][0] <= DEPTH_MAX:
        return Counted(rows[0][0])
    bands = yield SQL.call("bands", **flow, most=DEPTH_MAX + 1)
    return Counted(max(DEPTH_MAX, _estimated(bands, priority, found.id)), exact=False)


def _estimated(bands: Rows, priority: int, task_id: int) -> int:
    """Return about how many tasks of these bands of priority go before one.

    Bands that were counted to the end are known. The rest of the leader's count is spread over the
    others by the range of their ids, and inside the task's own band by where its id lies.
    """
    counted = {row[0]: row[3] for row in bands if row[3] <= DEPTH_MAX}
    spans = {row[0]: row[2] - row[1] + 1 for row in bands if row[0] not in counted}
    left = max(0, bands[0][4] - sum(counted.values()))
    ahead = 0.0
    for band, lowest, highest, *_ in bands:
        tasks = counted.get(band, left * spans.get(band, 0) / max(1, sum(spans.values())))
        if band < priority:
            ahead += tasks
        elif band == priority:
            part = (task_id - lowest) / max(1, highest - lowest)
            ahead += tasks * min(max(part, 0.0), 1.0)
    return round(ahead)


def _calls(found: _Found) -> list[Call]:
    queue, org = {"queue": found.queue}, {"queue": found.queue, "org": found.org}
    flow = org | {"workload": found.workload}
    log = {"at": found.at, "window_s": _WINDOW_S, "most": _PULSES_MAX}
    key = found.place[4] if found.place else None
    return [
        SQL.call("last_attempt", **queue, id=found.id),
        SQL.call("queue", **queue),
        SQL.call("org", **org),
        SQL.call("org_flows", **org, most=DEPTH_MAX, bands_max=_BANDS_MAX),
        SQL.call("flow", **flow),
        SQL.call("line", **queue, most=_NEW_BACKLOG_MAX, flows_max=_FLOWS_MAX + 1),
        SQL.call("slots", **org, main_min=MAIN_MIN, named=_NAMED_MAX, most=_SLOTS_MAX + 1),
        SQL.call("claimed_first", **queue, key=key, most=_SLOTS_MAX),
        SQL.call("pulses", **org, **log),
        SQL.call("recent", **queue, **log, flows_max=_FLOWS_MAX),
    ]


def _facts(
    found: _Found, ahead: Counted, answers: Sequence[Rows], leader: str | None, workers: int
) -> Facts:
    attempts, queues, orgs, own, flows, line, slots, first, pulses, recent = answers
    *flow_columns, workload_express, express_max_us = flows[0]
    org = _org(found, orgs[0], own, FlowFacts(*flow_columns), slots[0])
    queue = _queue(queues[0], slots[0], leader, workers)
    others = tuple(each for each in _line(line) if each.org != found.org)
    return Facts(
        at=found.at,
        line_at=_utc(queues[0][11]),
        task=_task(found, ahead, attempts, own, first[0][0]),
        org=org,
        queue=queue,
        paused_at=_utc(orgs[0][3]),
        paused_reason=orgs[0][4],
        holders=tuple(slots[0][6]),
        workload_express=workload_express,
        express_max_us=express_max_us,
        line=others,
        line_exact=len(line) <= _FLOWS_MAX,
        pulses=tuple(Pulse(*row) for row in pulses),
        recent=tuple(RecentFlow(*row) for row in recent),
    )


def _queue(row: Row, slots: Row, leader: str | None, workers: int) -> QueueFacts:
    name, policy, cost_mode, capacity, headroom, reserve, has_express, paused_at = row[:8]
    virtual_time, express_virtual_time, cost_us, ticked_at, event_at = row[8:]
    held, claimed, ready, express_ready, reserved = slots[:5]
    signs = [at for at in (ticked_at, event_at) if at is not None]
    return QueueFacts(
        name=name,
        policy=Policy(policy),
        cost_mode=CostMode(cost_mode),
        capacity=capacity,
        headroom=headroom,
        express_reserve=reserve,
        has_express=has_express,
        paused_at=_utc(paused_at),
        virtual_time=virtual_time,
        express_virtual_time=express_virtual_time,
        cost_us=cost_us,
        in_flight=Counted(min(held, _SLOTS_MAX), held <= _SLOTS_MAX),
        express_in_flight=reserved,
        ready=ready,
        express_ready=express_ready,
        claimed=claimed,
        workers=workers,
        leader=leader,
        led_until=_utc(max(signs, default=None)),
    )


def _org(found: _Found, row: Row, own: Rows, flow: FlowFacts, slots: Row) -> OrgFacts:
    weight, rank, burst_max, paused_at = row[:4]
    flows = tuple(FlowFacts(*columns) for *columns, _ in own)
    if all(each.workload != found.workload for each in flows):
        flows += (flow,)
    org = OrgFacts(
        org=found.org,
        weight=weight,
        rank=rank,
        burst_max=burst_max,
        paused=paused_at is not None,
        # Counted, unless there are more rows than are looked at: then as the leader counts.
        in_flight=slots[5] if slots[0] <= _SLOTS_MAX else row[11],
        flows=flows,
    )
    return _tagged(org, row[5:11])


def _line(rows: Rows) -> Iterator[OrgFacts]:
    """Yield the orgs of the line; the rows come by org."""
    for _, group in groupby(rows[:_FLOWS_MAX], key=lambda row: row[0]):
        flows = list(group)
        org, weight, rank, burst_max, paused, in_flight = flows[0][:6]
        facts = OrgFacts(
            org=org,
            weight=weight,
            rank=rank,
            burst_max=burst_max,
            paused=paused,
            in_flight=in_flight,
            flows=tuple(FlowFacts(*row[12:]) for row in flows),
        )
        yield _tagged(facts, flows[0][6:12])


def _tagged(org: OrgFacts, tags: Sequence[Any]) -> OrgFacts:
    """Return `org` with the tags that are known of it; without any, it was not known then."""
    if tags[0] is None:
        return org
    tag, virtual_time, eligible, express_tag, express_virtual_time, express_eligible = tags
    return replace(
        org,
        tag=tag,
        virtual_time=virtual_time,
        eligible=eligible,
        express_tag=express_tag,
        express_virtual_time=express_virtual_time,
        express_eligible=express_eligible,
    )


def _task(found: _Found, ahead: Counted, attempts: Rows, own: Rows, first: int) -> TaskFacts:
    task = TaskFacts(
        id=found.id,
        org=found.org,
        workload=found.workload,
        place=Place(found.place[0]) if found.place else Place.ENDED,
        max_attempts=found.max_attempts,
        critical=found.is_critical,
        ahead=ahead,
        waiting_s=max((_since_s(found.at, row[-1]) for row in own), default=0.0),
        claimed_first=first,
    )
    last = attempts[0] if attempts else None
    if found.place is None:
        if last is None:
            return task
        return replace(task, attempt=last[0], status=AttemptStatus(last[1]), ended_at=_utc(last[3]))
    _, attempt, _, run_at, _, claimed_at, worker, expires_at = found.place
    return replace(
        task,
        attempt=attempt,
        run_at=_utc(run_at),
        due_in_s=0.0 if run_at is None else max(0.0, -_since_s(found.at, run_at)),
        claimed_at=_utc(claimed_at),
        worker=worker,
        lease_expires_at=_utc(expires_at),
        # A final attempt before this place is one that was retried by hand.
        last=_last(last) if last is not None else None,
    )


def _last(last: Row) -> LastAttempt:
    attempt, status, _, ended_at, worker, error = last
    return LastAttempt(attempt, AttemptStatus(status), ended_at.astimezone(UTC), worker, error)


def _since_s(at: datetime, then: datetime | None) -> float:
    return 0.0 if then is None else (at - then).total_seconds()


def _utc(at: datetime | None) -> Any:
    """Return an instant in UTC, whatever the session's time zone."""
    return None if at is None else at.astimezone(UTC)
