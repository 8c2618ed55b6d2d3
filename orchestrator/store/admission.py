"""The statements of the tick, and the leader's cut as it is loaded and saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple
from uuid import UUID

from orchestrator.fairness import Lane, Refreshed, Settled
from orchestrator.store.names import (
    MAIN_MIN,
    doze_sequence,
    express_floor_sequence,
    floor_sequence,
    ready_channel,
    worker_pattern,
)
from orchestrator.store.packed import Int8s, Texts
from orchestrator.store.sql import Batch, Call, Operation, Statements

SQL = Statements("admission")

BEGIN = SQL.call("begin")
COMMIT = SQL.call("commit")
ROLLBACK = SQL.call("rollback")
# No statement of a load is near its timeout, no pause between two near the idle timeout.
_CHUNK = 10_000
_FLOWS_CHUNK = 500
# How far one flow is counted where its count is not known: more is learnt once that much is
# admitted.
COUNT_MAX = 1_000
# How many staged rows one feed reads before it gives up counting.
FEED_MAX = 200_000
# How often running attempts are looked at: for so long it is unknown what one has used beyond its
# charge.
REFRESH_INTERVAL_S = 0.5
# One look costs some milliseconds at the most; more than this is looked at over several.
_REFRESH_LEASES_MAX = 200
_REFRESH_KEYS_MAX = 1_000


class Ended(NamedTuple):
    """Attempts of one flow that ended since the last feed, the keys of those that overran, and the
    most that one of them took or was charged.
    """

    settled: Settled
    overran: list[int]
    largest_us: int


class Staged(NamedTuple):
    """Work that was staged since the last feed, a lower bound of its keys, and how much of it is
    critical.
    """

    org: str
    workload: str
    tasks: int
    neg_priority: int
    task_id: int
    critical: int


class Peek(NamedTuple):
    """What one look found that could call for work."""

    attempts: bool
    staged: bool
    config_version: int
    expired_leases: bool
    deadlines: bool
    next_due: datetime | None
    now: datetime
    snapshot: str


class Probe(NamedTuple):
    """What is ready, the smallest unclaimed keys, and which configuration is in force."""

    ready: int
    lowest: int | None
    express_ready: int
    express_lowest: int | None
    config_version: int
    config_deletes: int


class Parked(NamedTuple):
    """The backend of a worker's listening session, and the concurrency that it announces."""

    pid: int
    concurrency: int


class Wanted(NamedTuple):
    """The admissions that are planned of one flow, in their order: those of the main lane first.

    `bases` are their dispatch keys at priority 0.
    """

    org: str
    workload: str
    cursor: tuple[int, int]
    charged_us: int
    weight: int
    share: int
    main: int
    bases: list[int]


class Found(NamedTuple):
    """What there was of a wanted flow: how many tasks, of how many the feed has yet to tell, and
    the last one.
    """

    flow: int
    tasks: int
    uncounted: int
    neg_priority: int
    task_id: int


class OrgRow(NamedTuple):
    """A persisted org and the place of its row."""

    org: str
    tag: int
    virtual_time: int
    in_flight: int
    eligible: bool
    express_tag: int
    express_virtual_time: int
    express_in_flight: int
    express_eligible: bool
    last_admit: int
    place: str


class FlowRow(NamedTuple):
    """A persisted flow and the place of its row."""

    org: str
    workload: str
    tag: int
    express_tag: int
    backlog: int
    cost_us: int
    place: str


@dataclass(slots=True)
class QueueRow:
    """The persisted state of a queue; the snapshots are the right edges of what the feeds read."""

    virtual_time: int
    contended: bool
    express_virtual_time: int
    express_contended: bool
    cost_us: int
    admit_seq: int
    kappa: int
    staging_snapshot: str
    attempt_snapshot: str
    place: str


def peek(queue: int, state: QueueRow, since: datetime) -> Operation:
    """Look once at everything that could call for work, and move the snapshots past what is not."""
    rows = yield SQL.call(
        "peek",
        queue=queue,
        attempt_prev=state.attempt_snapshot,
        staging_prev=state.staging_snapshot,
        since=since,
    )
    found = Peek(*rows[0])
    # Nothing new up to this look's snapshot: the next one need not read the same stretch again,
    # which other queues may have filled.
    if not found.attempts:
        state.attempt_snapshot = found.snapshot
    if not found.staged:
        state.staging_snapshot = found.snapshot
    return found


def feeds(queue: int, state: QueueRow) -> Operation:
    """Read both feeds and the probe; return (ended, staged, probe) and move the snapshots on.

    Must run while the session has no transaction id of its own.
    """
    ended, staged, probed = yield Batch(
        [
            SQL.call(
                "attempt_feed",
                queue=queue,
                prev=state.attempt_snapshot,
                young_s=REFRESH_INTERVAL_S / 2,
            ),
            SQL.call("staging_feed", queue=queue, prev=state.staging_snapshot, most=FEED_MAX),
            _probe(queue),
        ]
    )
    state.attempt_snapshot, state.staging_snapshot = ended[0][0], staged[0][0]
    return (
        [Ended(Settled(*row[1:9]), row[9] or [], row[10]) for row in ended if row[1] is not None],
        [Staged(*row[1:]) for row in staged if row[1] is not None],
        Probe(*probed[0]),
    )


def fenced(queue: int, epoch: int, term: UUID, known: Probe | None = None) -> Operation:
    """Begin a transaction, take the fence, and only then probe; return a `Probe`, None if
    deposed.

    What was `known` to be ready in this term can only have become less since, so only the version
    of the configuration is read anew then.
    """
    later = SQL.call("config_versions") if known else _probe(queue)
    _, held, probed = yield Batch(
        [BEGIN, SQL.call("fence", queue=queue, epoch=epoch, term=term), later]
    )
    if not held:
        return None
    return Probe(*(known[:4] if known else ()), *probed[0])


def fence(queue: int, epoch: int, term: UUID) -> Operation:
    """Hold the leadership row for the transaction; return whether (epoch, term) still lead."""
    rows = yield SQL.call("fence", queue=queue, epoch=epoch, term=term)
    return bool(rows)


def _probe(queue: int) -> Call:
    return SQL.call(
        "probe",
        queue=queue,
        floor=floor_sequence(queue),
        express_floor=express_floor_sequence(queue),
        main_min=MAIN_MIN,
    )


def admit(
    queue: int,
    state: QueueRow,
    wanted: Sequence[Wanted],
    key_step: int,
    *,
    before: Sequence[Call] = (),
) -> Operation:
    """Admit what is planned; return (list of `Found`, how many were admitted).

    Each task's key lies its priority times `key_step` below its base. The statements `before` are
    sent first, in the same round trip.
    """
    bases = Int8s(base for flow in wanted for base in flow.bases)
    counts = [len(flow.bases) for flow in wanted]
    admitting = SQL.call(
        "admit",
        queue=queue,
        counted=state.staging_snapshot,
        key_step=key_step,
        bases=bases,
        orgs=Texts(flow.org for flow in wanted),
        workloads=Texts(flow.workload for flow in wanted),
        cursor_priorities=Int8s(flow.cursor[0] for flow in wanted),
        cursor_ids=Int8s(flow.cursor[1] for flow in wanted),
        counts=Int8s(counts),
        firsts=Int8s(accumulate(counts[:-1], initial=0)),
        mains=Int8s(flow.main for flow in wanted),
        charged_uss=Int8s(flow.charged_us for flow in wanted),
        weights=Int8s(flow.weight for flow in wanted),
        shares=Int8s(flow.share for flow in wanted),
    )
    *_, rows = yield Batch([*before, admitting])
    return [Found(*row[:5]) for row in rows], rows[0][5] if rows else 0


def refresh(queue: int, after: UUID) -> Operation:
    """Charge running attempts that have outgrown their charge; return (last lease looked at, list).

    The list holds a `Refreshed` for each; the lease is None where there was none after `after`.
    """
    rows = yield SQL.call(
        "refresh",
        queue=queue,
        after=after,
        min_age_s=REFRESH_INTERVAL_S,
        leases_max=_REFRESH_LEASES_MAX,
        keys_max=_REFRESH_KEYS_MAX,
    )
    return rows[0][0], [Refreshed(*row[1:]) for row in rows if row[1] is not None]


def forget_overruns(queue: int, keys: Sequence[int]) -> Call:
    """Return the statement that drops the overruns of attempts that were settled."""
    return SQL.call("forget_overruns", queue=queue, keys=list(keys))


def save_orgs(queue: int, rows: Sequence[OrgRow]) -> Call:
    """Return the statement that updates known orgs, or adds them where `place` is empty."""
    columns: dict[str, Any] = {
        "orgs": Texts(row.org for row in rows),
        "tags": Int8s(row.tag for row in rows),
        "virtual_times": Int8s(row.virtual_time for row in rows),
        "in_flights": Int8s(row.in_flight for row in rows),
        "eligibles": Int8s(row.eligible for row in rows),
        "express_tags": Int8s(row.express_tag for row in rows),
        "express_virtual_times": Int8s(row.express_virtual_time for row in rows),
        "express_in_flights": Int8s(row.express_in_flight for row in rows),
        "express_eligibles": Int8s(row.express_eligible for row in rows),
        "last_admits": Int8s(row.last_admit for row in rows),
    }
    if rows[0].place:
        places = Texts(row.place for row in rows)
        return SQL.call("save_orgs", queue=queue, places=places, **columns)
    return SQL.call("add_orgs", queue=queue, **columns)


def save_flows(queue: int, rows: Sequence[FlowRow]) -> Call:
    """Return the statement that updates known flows, or adds them where `place` is empty."""
    columns: dict[str, Any] = {
        "orgs": Texts(row.org for row in rows),
        "workloads": Texts(row.workload for row in rows),
        "tags": Int8s(row.tag for row in rows),
        "express_tags": Int8s(row.express_tag for row in rows),
        "backlogs": Int8s(row.backlog for row in rows),
        "costs_us": Int8s(row.cost_us for row in rows),
    }
    if rows[0].place:
        places = Texts(row.place for row in rows)
        return SQL.call("save_flows", queue=queue, places=places, **columns)
    return SQL.call("add_flows", queue=queue, **columns)


def save_queue(queue: int, row: QueueRow) -> Call:
    """Return the statement that persists the queue's own state."""
    return SQL.call(
        "save_queue",
        queue=queue,
        virtual_time=row.virtual_time,
        contended=row.contended,
        express_virtual_time=row.express_virtual_time,
        express_contended=row.express_contended,
        cost_us=row.cost_us,
        admit_seq=row.admit_seq,
        kappa=row.kappa,
        staging_snapshot=row.staging_snapshot,
        attempt_snapshot=row.attempt_snapshot,
        place=row.place,
    )


def log_tick(queue: int, **columns: Any) -> Call:
    """Return the statement that writes down what a tick decided."""
    return SQL.call("log_tick", queue=queue, **columns)


def notify_ready(queue: int, payload: str = "") -> Call:
    """Return the statement that wakes the workers of the queue once the transaction commits.

    The payload says which of them (`wakeup.summons`); an empty one means all.
    """
    return SQL.call("notify", channel=ready_channel(queue), payload=payload)


def set_floor(queue: int, value: int) -> Call:
    """Return the statement that publishes that no unclaimed ordinary key lies below `value`; only
    under the fence, before any insert.
    """
    return SQL.call("set_floor", floor=floor_sequence(queue), value=value)


def set_express_floor(queue: int, value: int) -> Call:
    """Return the statement that publishes that no unclaimed key of express work lies below `value`;
    as `set_floor`.
    """
    return SQL.call("set_floor", floor=express_floor_sequence(queue), value=value)


def set_doze(queue: int, value: int) -> Operation:
    """Tell producers (2) and finishers too (3) to wake the leader, or nobody (1)."""
    yield SQL.call("set_doze", doze=doze_sequence(queue), value=value)


def parked(queue: int) -> Operation:
    """Return a `Parked` for each session of a worker that listens for this queue."""
    rows = yield SQL.call("parked", pattern=worker_pattern(queue))
    return [Parked(*row) for row in rows]


def parked_concurrency(queue: int) -> Operation:
    """Return the summed concurrency of the workers that listen for this queue."""
    return sum(worker.concurrency for worker in (yield from parked(queue)))


def load_queue(queue: int) -> Operation:
    """Return (`QueueRow`, the cluster that wrote it or "0", this cluster)."""
    rows = yield SQL.call("load_queue", queue=queue)
    *state, stored, actual = rows[0]
    return QueueRow(*state), stored, actual


def adopt(queue: int, system_identifier: str) -> Operation:
    """Note that the snapshots of the queue belong to this cluster."""
    yield SQL.call("adopt_state", queue=queue, system_identifier=int(system_identifier))


def load_orgs(queue: int, after: str) -> Operation:
    """Return the next persisted orgs of the queue after one, by name; none = that was all."""
    rows = yield SQL.call("load_orgs", queue=queue, after=after, limit=_CHUNK)
    return [OrgRow(*row) for row in rows]


def load_flows(queue: int, after: tuple[str, str]) -> Operation:
    """Return the next persisted flows of the queue after one; none = that was all."""
    rows = yield SQL.call(
        "load_flows", queue=queue, after_org=after[0], after_workload=after[1], limit=_CHUNK
    )
    return [FlowRow(*row) for row in rows]


def lowest_unclaimed(queue: int) -> Operation:
    """Return the smallest unclaimed keys of ordinary and of express work, None where there is none.

    A full scan of what is in flight.
    """
    rows = yield SQL.call("lowest_unclaimed", queue=queue, main_min=MAIN_MIN)
    return rows[0]


def count_in_flight(queue: int, attempt_snapshot: str) -> Operation:
    """Return {(org, lane): unfinished rows plus ended ones that the feed has yet to report}."""
    rows = yield SQL.call("count_in_flight", queue=queue, prev=attempt_snapshot)
    return {(org, Lane(reserved)): count for org, reserved, count in rows}


def count_flows(queue: int, after: tuple[str, str]) -> Operation:
    """Return [(org, workload, its staged tasks, counted up to `COUNT_MAX`)] of the next flows that
    have any; none = that was all.
    """
    return (
        yield SQL.call(
            "count_flows",
            queue=queue,
            after_org=after[0],
            after_workload=after[1],
            limit=_FLOWS_CHUNK,
            most=COUNT_MAX,
        )
    )


def count_flow(
    queue: int, org: str, workload: str, cursor: tuple[int, int], most: int
) -> Operation:
    """Count the staged tasks of one flow from `cursor` on, up to `most`."""
    rows = yield SQL.call(
        "count_flow",
        queue=queue,
        org=org,
        workload=workload,
        cursor_priority=cursor[0],
        cursor_id=cursor[1],
        most=most,
    )
    return rows[0][0]


def told_of(queue: int, org: str, workload: str, counted: str) -> Operation:
    """Tell whether the feed up to the snapshot `counted` told of a task that is still staged."""
    rows = yield SQL.call(
        "told_of", queue=queue, org=org, workload=workload, counted=counted, most=COUNT_MAX
    )
    return rows[0][0]


def adopt_rows(queue: int) -> Operation:
    """Make rows that another cluster stamped old, a chunk of them; return how many that were."""
    rows = yield SQL.call("adopt_rows", queue=queue, limit=_CHUNK)
    return rows[0][0]


def rebuild(queue: int, system_identifier: str) -> Operation:
    """Derive the cut anew from the tables; in one REPEATABLE READ transaction, under the fence."""
    snapshot = yield SQL.call("current_snapshot")
    yield SQL.call(
        "restart_state",
        queue=queue,
        system_identifier=int(system_identifier),
        snapshot=snapshot[0][0],
    )
    yield SQL.call("rebuild_orgs", queue=queue)
    yield SQL.call("rebuild_flows", queue=queue)


def renormalise(queue: int) -> Operation:
    """Take every virtual time of the queue off the tags that are compared with it."""
    yield SQL.call("renormalise", queue=queue)
