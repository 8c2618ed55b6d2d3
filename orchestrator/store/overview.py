"""What screens show of a queue, for a browser and for a terminal: the numbers, and what is wrong.

Read-only. Nothing here costs O(backlog) or O(in-flight): what is many is counted up to a bound, and
past that as the leader counted a moment ago. `overview` wants one transaction, best a REPEATABLE
READ one, so that its numbers fit each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from orchestrator.model import AttemptStatus, QueueConfig
from orchestrator.store import leadership
from orchestrator.store.leadership import Leadership
from orchestrator.store.names import worker_pattern
from orchestrator.store.sql import Operation, Statements
from orchestrator.store.status import QueueStatus, oldest_waits, queue_status
from orchestrator.store.tasks import task_line

SQL = Statements("overview")

# Admitted tasks are counted one by one up to here: some 10 ms.
SLOTS_MAX = 20_000
# So many orgs, those with the most slots first, are told since when they wait.
ORGS_MAX = 200
PACE_WINDOW_S = 600.0
PACE_STEP_S = 5
RATE_WINDOW_S = 60.0
ELECTIONS_WINDOW_S = 3600.0
_ELECTIONS_MAX = 1_000
_TICKS_MAX = 2_000
_LEASES_MAX = 1_000
_ATTEMPTS_MAX = 20_000
# A leader looks at its queue many times a second; one so silent is about to be deposed.
LEADER_SILENT_S = 2.0
# Ready work is claimed within milliseconds where a worker has room.
UNCLAIMED_S = 10.0
# More elections in an hour than this: replicas restart, or lose their server again and again.
ELECTIONS_CALM = 3


class AlarmKind(StrEnum):
    """What may be wrong with a queue, the worst first."""

    NO_LEADER = "no_leader"
    LEADER_SILENT = "leader_silent"
    FAIRNESS = "fairness"
    QUEUE_PAUSED = "queue_paused"
    NO_WORKERS = "no_workers"
    DEAD_LETTERS = "dead_letters"
    ELECTIONS = "elections"
    ORGS_PAUSED = "orgs_paused"


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that is wrong: a sentence, and what to do about it."""

    kind: AlarmKind
    text: str
    unblock: str


@dataclass(frozen=True, slots=True)
class PaceStep:
    """What one step of time admitted, and how many admitted tasks ended in it."""

    at: datetime
    admitted_per_s: float
    ended_per_s: float


@dataclass(frozen=True, slots=True)
class Workers:
    """Who works on a queue: workers that hold a lease, those that listen, and their room."""

    leasing: int
    listening: int
    room: int

    @property
    def seen(self) -> bool:
        """Tell whether any worker is known."""
        return self.leasing > 0 or self.listening > 0


@dataclass(frozen=True, slots=True)
class TickTime:
    """How long the ticks of the last minute took that did something."""

    ticks: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Overview:
    """One queue at one moment, for a screen.

    `admitted_per_s` and `ended_per_s` are over the last minute: ended is what gave its slot back.
    `pace` has a step for every `PACE_STEP_S` seconds of the last `PACE_WINDOW_S`. `oldest_by_org`
    is how long the oldest task of an org waits, in seconds, for up to `ORGS_MAX` orgs.
    """

    at: datetime
    status: QueueStatus
    leader: Leadership
    elections: int
    workers: Workers
    ticks: TickTime
    admitted_per_s: float
    ended_per_s: float
    pace: Sequence[PaceStep]
    oldest_by_org: Mapping[str, float]

    @property
    def ready(self) -> int:
        """Return how many tasks are admitted and not claimed."""
        return sum(org.ready for org in self.status.orgs)

    @property
    def in_flight(self) -> int:
        """Return how many slots are held."""
        return sum(org.in_flight for org in self.status.orgs)

    @property
    def alarms(self) -> Sequence[Alarm]:
        """Return what is wrong, the worst first."""
        return _alarms(self)


@dataclass(frozen=True, slots=True)
class TickLine:
    """One tick that did something; `picks` are (org, workload, tasks admitted)."""

    at: datetime
    ago_s: float
    epoch: int
    settled: int
    admitted: int
    ready: int
    window: int
    in_flight: int
    tick_us: int
    picks: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class OrgFlow:
    """One workload of an org in a queue, as the leader knew it a moment ago; cost None: not
    measured.
    """

    workload: str
    staged: int
    cost_s: float | None


@dataclass(frozen=True, slots=True)
class OrgQueue:
    """What an org has in one queue, as the leader knew it a moment ago."""

    queue: str
    in_flight: int
    flows: tuple[OrgFlow, ...]


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One change of the configuration; `change` is JSON text."""

    at: datetime
    actor: str
    verb: str
    object: str
    change: str


def overview(queue: QueueConfig) -> Operation:
    """Return the `Overview` of one queue; needs a transaction."""
    status = yield from queue_status(queue, slots_max=SLOTS_MAX)
    leaders = yield from leadership.leaders()
    elections = yield SQL.call(
        "elections", queue=queue.id, window_s=ELECTIONS_WINDOW_S, most=_ELECTIONS_MAX
    )
    at = elections[0][1]
    workers = yield SQL.call(
        "workers", queue=queue.id, most=_LEASES_MAX, pattern=worker_pattern(queue.id)
    )
    ticks = yield SQL.call("tick_time", queue=queue.id, window_s=RATE_WINDOW_S, most=_TICKS_MAX)
    steps = yield from _pace(queue.id, at)
    recent = steps[-round(RATE_WINDOW_S / PACE_STEP_S) - 1 : -1]
    waits = yield from oldest_waits(queue.id, status.orgs[:ORGS_MAX])
    count, p50_us, p99_us = ticks[0]
    return Overview(
        at=at,
        status=status,
        leader=next(each for each in leaders if each.queue == queue.id),
        elections=elections[0][0],
        workers=Workers(*workers[0]),
        ticks=TickTime(count, p50_us / 1_000, p99_us / 1_000),
        admitted_per_s=sum(step.admitted_per_s for step in recent) / len(recent),
        ended_per_s=sum(step.ended_per_s for step in recent) / len(recent),
        pace=steps,
        oldest_by_org=waits,
    )


def one_snapshot(operation: Operation) -> Operation:
    """Return `operation` for a transaction of its own: read-only, and all in one snapshot."""
    yield SQL.call("one_snapshot")
    return (yield from operation)


def org_pace(queue: int, org: str, window_s: float, step_s: int) -> Operation:
    """Return {when a step began: tasks of `org` admitted per second in it}, over the window."""
    rows = yield SQL.call("org_pace", queue=queue, org=org, window_s=window_s, step_s=step_s)
    now = rows[0][0]
    admitted = {at: count for _, at, count in rows if at is not None}
    return {_instant(now, at): admitted.get(at, 0) / step_s for at in _steps(now, window_s, step_s)}


def org_queues(org: str) -> Operation:
    """Return the `OrgQueue`s in which the leader knows `org`."""
    rows = yield SQL.call("org_flows", org=org)
    slots: dict[str, int] = {}
    flows: dict[str, list[OrgFlow]] = {}
    for queue, in_flight, workload, staged, cost_us in rows:
        slots[queue] = in_flight
        of = flows.setdefault(queue, [])
        if workload is not None:
            of.append(OrgFlow(workload, staged, cost_us / 1e6 if cost_us else None))
    return [OrgQueue(name, slots[name], tuple(flows[name])) for name in slots]


def ticks(queue: int, limit: int) -> Operation:
    """Return the last `TickLine`s of a queue, the newest first."""
    rows = yield SQL.call("ticks", queue=queue, limit=limit)
    return [_tick_line(*row) for row in rows]


def tasks_of_org(queue: int, org: str, limit: int, *, among: int = 20_000) -> Operation:
    """Return the newest `TaskLine`s of an org, among the newest `among` tasks of the queue."""
    rows = yield SQL.call("tasks_of_org", queue=queue, org=org, limit=limit, among=among)
    return [task_line(row) for row in rows]


def audit(limit: int, *, of: str | None = None, among: int = 5_000) -> Operation:
    """Return the newest `AuditLine`s, of one org, queue, tier or workload or of all."""
    rows = yield SQL.call("audit", object=of, limit=limit, among=among)
    return [AuditLine(*row) for row in rows]


def _pace(queue: int, now: datetime) -> Operation:
    """Return a step for every `PACE_STEP_S` up to now, those without a tick too; the last is begun.

    What ended is counted by row as far back as `_ATTEMPTS_MAX` rows reach; further back it is what
    the ticks tell, which are many where much ends.
    """
    rows = yield SQL.call("pace", queue=queue, window_s=PACE_WINDOW_S, step_s=PACE_STEP_S)
    admitted = {at: count for at, count, _ in rows}
    ended = {at: count for at, _, count in rows}
    counted = yield SQL.call("ended", queue=queue, step_s=PACE_STEP_S, among=_ATTEMPTS_MAX)
    exact = {at: count for _, _, at, count in counted if at is not None}
    count, oldest = counted[0][:2]
    since = oldest.timestamp() if count == _ATTEMPTS_MAX else 0.0
    steps = []
    for at in _steps(now, PACE_WINDOW_S, PACE_STEP_S):
        out = exact.get(at, 0) if at >= since else ended.get(at, 0)
        steps.append(
            PaceStep(_instant(now, at), admitted.get(at, 0) / PACE_STEP_S, out / PACE_STEP_S)
        )
    return steps


def _steps(now: datetime, window_s: float, step_s: int) -> range:
    """Return where the steps of the window begin, in seconds of the epoch; the last holds `now`."""
    last = int(now.timestamp()) // step_s * step_s
    return range(last - (round(window_s / step_s) - 1) * step_s, last + 1, step_s)


def _instant(now: datetime, seconds: int) -> datetime:
    return now + timedelta(seconds=seconds - now.timestamp())


def _tick_line(
    at: datetime,
    ago_s: float,
    epoch: int,
    settled: int,
    admitted: int,
    ready: int,
    window: int,
    in_flight: int,
    tick_us: int,
    *picks: Sequence[Any],
) -> TickLine:
    chosen = tuple(zip(*picks, strict=True))
    return TickLine(at, ago_s, epoch, settled, admitted, ready, window, in_flight, tick_us, chosen)


# What is wrong ----------------------------------------------------------------------------------


def _alarms(each: Overview) -> Sequence[Alarm]:
    status, leader = each.status, each.leader
    found: list[Alarm] = []

    def alarm(kind: AlarmKind, text: str, unblock: str) -> None:
        found.append(Alarm(kind, text, unblock))

    if not leader.alive:
        alarm(
            AlarmKind.NO_LEADER,
            "no leader: nothing is admitted",
            "`orchestrator run` starts a replica",
        )
    elif leader.silent_s is not None and leader.silent_s > LEADER_SILENT_S:
        alarm(
            AlarmKind.LEADER_SILENT,
            f"the leader has been silent for {leader.silent_s:.1f} s",
            "a replica that is alive takes over within seconds; look at the leader's machine",
        )
    for text in status.alarms:
        alarm(AlarmKind.FAIRNESS, text, "the leader's decision log shows who was admitted")
    if status.queue.paused:
        alarm(AlarmKind.QUEUE_PAUSED, "paused: nothing is admitted", "resume the queue")
    if _without_workers(each):
        alarm(
            AlarmKind.NO_WORKERS,
            f"no workers: {each.ready:,} ready tasks, and nobody claims them",
            "`orchestrator worker MODULE:APP` starts one",
        )
    dead = status.flow.by_status.get(AttemptStatus.DEAD, 0)
    if dead:
        alarm(
            AlarmKind.DEAD_LETTERS,
            f"{dead:,} dead letters in the last {status.flow.window_s:.0f} s",
            f"`orchestrator task list --status dead --queue {status.queue.name}` names all",
        )
    if each.elections > ELECTIONS_CALM:
        alarm(
            AlarmKind.ELECTIONS,
            f"{each.elections:,} elections in the last hour",
            "the leadership log says why each term ended",
        )
    paused = [org.org for org in status.orgs if org.paused and org.staged]
    if paused:
        alarm(
            AlarmKind.ORGS_PAUSED,
            f"{len(paused):,} paused {'org has' if len(paused) == 1 else 'orgs have'} a backlog",
            "resume what should run again",
        )
    return found


def _without_workers(each: Overview) -> bool:
    """Tell whether ready work waits and no worker was seen."""
    oldest = [each.oldest_by_org.get(org.org, 0.0) for org in each.status.orgs if org.ready]
    return bool(oldest) and not each.workers.seen and max(oldest) > UNCLAIMED_S
