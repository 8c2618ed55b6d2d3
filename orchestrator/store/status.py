"""What operators ask: who waits, who holds the slots, how much comes and goes, is the server fit.

Read-only. Nothing here costs O(backlog): flows are walked by a loose index scan, tasks are counted
up to a bound, and windows of time are found by bisection. `queue_status` wants one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import SchemaMismatch
from orchestrator.model import (
    DEPTH_MAX,
    AttemptStatus,
    FairnessReport,
    Place,
    Policy,
    QueueConfig,
)
from orchestrator.store.fairness import Window, recent
from orchestrator.store.loads import OrgLoad, org_loads
from orchestrator.store.sql import Operation, Statements

SQL = Statements("status")

WINDOW_S = 60.0
# The oldest tasks are looked for by id. Ids are handed out at enqueue, so what was scheduled for
# later is older by id than by waiting: among this many the truly oldest is picked. Inside one
# priority of a flow the first by id stands for the rest: to look further would be O(backlog).
_CANDIDATES = 50
_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Schema:
    """The revisions a database has, and those this code knows, oldest first.

    Code that knows revision `oldest` may run on the schema, whatever came after that.
    """

    found: tuple[str, ...]
    known: tuple[str, ...]
    oldest: str | None = None

    @property
    def newer(self) -> str | None:
        """Return the newest revision that this code does not know."""
        return max(set(self.found) - set(self.known), default=None)

    @property
    def suits_older_code(self) -> bool:
        """Tell whether a schema that is newer than this code says that the code may run."""
        return self.oldest in self.known

    def demand(self) -> None:
        """Return if this code can use the schema; raise `SchemaMismatch` if not."""
        if not self.found:
            raise SchemaMismatch("the schema is missing: run `orchestrator migrate`")
        if self.newer:
            if self.suits_older_code:
                return
            raise SchemaMismatch(
                f"the database's schema ({self.newer}) is newer than this version knows "
                f"({self.known[-1]}): upgrade orchestrator"
            )
        if self.found[-1] != self.known[-1]:
            raise SchemaMismatch(
                f"the schema is at {self.found[-1]}, this version needs {self.known[-1]}: "
                "run `orchestrator migrate`"
            )


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that waits to be claimed, since `since`."""

    id: int
    org: str
    workload: str
    priority: int
    name: str
    since: datetime
    age_s: float


@dataclass(frozen=True, slots=True)
class LastTick:
    """The last tick that did something."""

    at: datetime
    ago_s: float
    admitted: int
    settled: int
    tick_us: int


@dataclass(frozen=True, slots=True)
class Flow:
    """How much came and went in the last `window_s` seconds."""

    window_s: float
    enqueued: int
    ended: int
    by_status: Mapping[AttemptStatus, int]
    retried: int


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """One queue at one moment."""

    queue: QueueConfig
    oldest: Waiting | None
    oldest_quiet: Waiting | None
    orgs: Sequence[OrgLoad]
    flow: Flow
    last_tick: LastTick | None
    leases: int
    expired_leases: int
    scheduled: int
    next_due_at: datetime | None
    # The last window of the fairness signal, None where there is none or it is too old to tell.
    fairness: Window | None = None

    @property
    def alarms(self) -> Sequence[str]:
        """Return what is wrong with fairness in this queue, a line each."""
        found = []
        if self.queue.policy is Policy.STRICT:
            found.append("policy strict: lower tiers wait as long as higher ones have work")
        if self.fairness is not None:
            found += _broken(self.fairness.report)
        return found

    @property
    def backlog(self) -> int:
        """Return how many tasks are staged, at least."""
        return sum(org.staged for org in self.orgs)

    @property
    def backlog_exact(self) -> bool:
        """Tell whether `backlog` was counted to the end."""
        return all(org.staged_exact for org in self.orgs)


def _broken(report: FairnessReport) -> list[str]:
    found = []
    if report.bound_broken:
        found.append(
            f"fairness bound broken: {report.ahead!r} is {report.lag:.3g} {report.lag_unit} by "
            f"weight ahead of {report.behind!r}, the bound is {report.lag_bound:.3g}"
        )
    if report.starved:
        found.append(f"{report.starved:,} orgs starved in the last {report.window_s:.0f} s")
    return found


class Server(NamedTuple):
    """What `doctor` judges of a server."""

    version: int
    version_text: str
    in_recovery: bool
    read_only: bool
    backend_pid: int
    local: bool
    autovacuum: bool
    connections_max: int
    connections: int
    clock: datetime


@dataclass(frozen=True, slots=True)
class OrgPlaces:
    """What one org has in one queue; `staged` is counted up to `DEPTH_MAX`."""

    queue: str
    staged: int
    ready: int
    claimed: int


def known_revisions() -> tuple[str, ...]:
    """Return the revisions of the schema that came with this code, oldest first."""
    packaged = Path(str(files("orchestrator"))) / "_schema"
    folder = packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "schema"
    return tuple(sorted(path.name.split("_")[0] for path in folder.glob("versions/[0-9]*.sql")))


def schema() -> Operation:
    """Return the `Schema` of the database, without loading what migrates it."""
    present = yield SQL.call("schema_present")
    rows = (yield SQL.call("schema_revision")) if present[0][0] else []
    return Schema(tuple(row[0] for row in rows), known_revisions(), rows[0][1] if rows else None)


def server() -> Operation:
    """Return what the `Server` says of itself."""
    rows = yield SQL.call("server")
    return Server(*rows[0])


def queue_status(queue: QueueConfig, *, slots_max: int | None = None) -> Operation:
    """Return the `QueueStatus` of one queue; needs a transaction, best a REPEATABLE READ one.

    Slots are counted by row up to `slots_max`; past that as the leader counted a
    moment ago.
    """
    yield SQL.call("steady")
    orgs = yield from org_loads(queue.id, slots_max)
    longest = yield from oldest(queue.id, [org for org in orgs if not org.paused])
    quiet = [org for org in orgs if org.is_quiet and not org.paused]
    oldest_quiet = yield from oldest(queue.id, quiet)
    flow = yield from _flow(queue.id)
    ticks = yield SQL.call("last_tick", queue=queue.id)
    leases = yield SQL.call("leases", queue=queue.id)
    scheduled = yield SQL.call("scheduled", queue=queue.id, most=DEPTH_MAX)
    windows = yield from recent(queue.id, 1)
    return QueueStatus(
        queue=queue,
        oldest=longest,
        oldest_quiet=oldest_quiet,
        orgs=orgs,
        flow=flow,
        last_tick=LastTick(*ticks[0]) if ticks else None,
        leases=leases[0][0],
        expired_leases=leases[0][1],
        scheduled=scheduled[0][0],
        next_due_at=scheduled[0][1],
        fairness=next((w for w in windows if w.ago_s < WINDOW_S), None),
    )


def org_places(org: str) -> Operation:
    """Return the `OrgPlaces` of `org` in every queue."""
    rows = yield SQL.call("org_places", org=org, most=DEPTH_MAX)
    return [OrgPlaces(*row) for row in rows]


def unfinished(
    queue: int,
    place: Place,
    *,
    org: str | None,
    name: str | None,
    older_than_s: float | None = None,
) -> Operation:
    """Return the ids of the tasks in `place` that belong to `org`, are called `name`, and were
    enqueued more than `older_than_s` ago.
    """
    if place is Place.STAGED:
        return (yield from _staged_ids(queue, org, name, older_than_s))
    claimed = {Place.READY: False, Place.CLAIMED: True}.get(place)
    found: list[int] = []
    while True:
        where = {
            "queue": queue,
            "org": org,
            "name": name,
            "older_than_s": older_than_s,
            "after_id": found[-1] if found else -1,
        }
        if place is Place.SCHEDULED:
            rows = yield SQL.call("scheduled_page", **where, limit=_PAGE)
        else:
            rows = yield SQL.call("admitted_page", **where, claimed=claimed, limit=_PAGE)
        found.extend(row[0] for row in rows)
        if len(rows) < _PAGE:
            return found


def _staged_ids(
    queue: int, org: str | None, name: str | None, older_than_s: float | None
) -> Operation:
    found: list[int] = []
    after: tuple[str, str, int, int] = ("", "", -32768, -1)
    while True:
        rows = yield SQL.call(
            "staged_page",
            queue=queue,
            org=org,
            name=name,
            older_than_s=older_than_s,
            after_org=after[0] or org or "",
            after_workload=after[1],
            after_priority=after[2],
            after_id=after[3],
            limit=_PAGE,
        )
        found.extend(row[3] for row in rows if row[4])
        if len(rows) < _PAGE:
            return found
        after = rows[-1][:4]


def oldest(queue: int, orgs: Sequence[OrgLoad]) -> Operation:
    """Return the task of `orgs` that waits longest to be claimed, None if none waits."""
    ids = sorted(
        task_id
        for org in orgs
        for task_id in (org.oldest_staged, org.oldest_ready)
        if task_id is not None
    )
    if not ids:
        return None
    rows = yield SQL.call("waiting", queue=queue, ids=ids[:_CANDIDATES])
    return min((Waiting(*row) for row in rows), key=lambda task: task.since, default=None)


def oldest_waits(queue: int, orgs: Sequence[OrgLoad]) -> Operation:
    """Return {org: how long its oldest waiting task waits, in seconds}; O(orgs)."""
    ids = [n for org in orgs for n in (org.oldest_staged, org.oldest_ready) if n is not None]
    rows = yield SQL.call("waiting", queue=queue, ids=sorted(ids))
    waits: dict[str, float] = {}
    for row in rows:
        task = Waiting(*row)
        waits[task.org] = max(task.age_s, waits.get(task.org, 0.0))
    return waits


def _flow(queue: int) -> Operation:
    enqueued = yield SQL.call("enqueued", queue=queue, window_s=WINDOW_S)
    rows = yield SQL.call("ended", queue=queue, window_s=WINDOW_S)
    by_status: dict[AttemptStatus, int] = {}
    for status, _, count in rows:
        by_status[AttemptStatus(status)] = by_status.get(AttemptStatus(status), 0) + count
    return Flow(
        window_s=WINDOW_S,
        enqueued=enqueued[0][0],
        ended=sum(count for _, final, count in rows if final),
        by_status=by_status,
        retried=sum(
            count
            for status, final, count in rows
            if not final and status in (AttemptStatus.FAILED, AttemptStatus.LOST)
        ),
    )
