"""The statements of the tick, with which the leader's cut is saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import NamedTuple
from uuid import UUID

from orchestrator.fairness import COST_MAX_US, Refreshed, Settled
from orchestrator.store.leadership import Term
from orchestrator.store.names import (
    MAIN_MIN,
    doze_sequence,
    express_floor_sequence,
    floor_sequence,
    ready_channel,
    worker_pattern,
)
from orchestrator.store.packed import Int8s, Texts
from orchestrator.store.sql import Batch, Call, Operation, Row, Statements

SQL = Statements("admission")

BEGIN = SQL.call("begin")
NO_WAIT = SQL.call("no_wait")
COMMIT = SQL.call("commit")
ROLLBACK = SQL.call("rollback")
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
    """Work that was staged since the last feed, a lower bound of its keys, how much of it is
    critical, and the number of its flow (`wakeup.hint`).
    """

    org: str
    workload: str
    tasks: int
    neg_priority: int
    task_id: int
    critical: int
    number: int


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
    """What there was of a wanted flow: how many tasks, and the last one."""

    flow: int
    tasks: int
    neg_priority: int
    task_id: int


class Portion(NamedTuple):
    """Some orgs and their flows to save, and their values.

    Of an org: tag, virtual time, slots in flight, eligible; the same of its express lane; when it
    was last admitted. Of a flow: tag, express tag, backlog, cost.
    """

    orgs: Texts
    org_values: Int8s
    flow_orgs: Texts
    flow_workloads: Texts
    flow_values: Int8s


class TickLine(NamedTuple):
    """What is written down of a tick, besides what it admits.

    `before_us` is what it took before its transaction began, `summons` whom of the workers it calls
    (`wakeup.summons`).
    """

    settled: int
    ready: int
    window_max: int
    in_flight: int
    before_us: int
    summons: str


class Moved(NamedTuple):
    """What came of a tick's statement; unless `done`, nothing was changed.

    `place` tells where the row of the queue lies now.
    """

    leads: bool
    config_version: int
    config_deletes: int
    done: bool
    found: list[Found]
    place: str | None


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
    # None: it is not written.
    place: str | None


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
                cost_max_us=COST_MAX_US,
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


def fenced(term: Term) -> Operation:
    """Begin a transaction, take the fence, and only then probe; return a `Probe`, None if
    deposed.
    """
    _, held, probed = yield Batch([BEGIN, fence(term), _probe(term.queue)])
    return Probe(*probed[0]) if held else None


def fence(term: Term) -> Call:
    """Return the statement that holds the leadership row for the transaction; no row = the term is
    over.
    """
    return SQL.call("fence", queue=term.queue, epoch=term.epoch, term=term.term)


def _probe(queue: int) -> Call:
    return SQL.call(
        "probe",
        queue=queue,
        floor=floor_sequence(queue),
        express_floor=express_floor_sequence(queue),
        main_min=MAIN_MIN,
    )


def tick(
    term: Term,
    state: QueueRow,
    version: tuple[int, int],
    wanted: Sequence[Wanted],
    key_step: int,
    portion: Portion,
    overran: Sequence[int],
    line: TickLine,
    *,
    told: bool = True,
) -> Call:
    """Return the statement that admits what is wanted and saves the cut, to be sent after a fence.

    Each task's key lies its priority times `key_step` below its base. `version` is that of the
    configuration under which it was planned. Unless `told`, only those tasks are admitted that no
    feed has told of yet.
    """
    queue = term.queue
    counts = Int8s(len(flow.bases) for flow in wanted)
    return SQL.call(
        "tick",
        queue=queue,
        epoch=term.epoch,
        term=term.term,
        config_version=version[0],
        config_deletes=version[1],
        counted=state.staging_snapshot,
        told=told,
        key_step=key_step,
        bases=Int8s(base for flow in wanted for base in flow.bases),
        orgs=Texts(flow.org for flow in wanted),
        workloads=Texts(flow.workload for flow in wanted),
        cursor_priorities=Int8s(flow.cursor[0] for flow in wanted),
        cursor_ids=Int8s(flow.cursor[1] for flow in wanted),
        counts=counts,
        firsts=Int8s(accumulate(counts[:-1], initial=0)),
        mains=Int8s(flow.main for flow in wanted),
        charged_uss=Int8s(flow.charged_us for flow in wanted),
        weights=Int8s(flow.weight for flow in wanted),
        shares=Int8s(flow.share for flow in wanted),
        virtual_time=state.virtual_time,
        contended=state.contended,
        express_virtual_time=state.express_virtual_time,
        express_contended=state.express_contended,
        cost_us=state.cost_us,
        admit_seq=state.admit_seq,
        kappa=state.kappa,
        attempt_snapshot=state.attempt_snapshot,
        place=state.place,
        org_names=portion.orgs,
        org_values=portion.org_values,
        flow_orgs=portion.flow_orgs,
        flow_workloads=portion.flow_workloads,
        flow_values=portion.flow_values,
        overran=Int8s(overran),
        settled=line.settled,
        ready=line.ready,
        window_max=line.window_max,
        in_flight=line.in_flight,
        before_us=line.before_us,
        summons=line.summons,
        channel=ready_channel(queue),
    )


def moved(rows: Sequence[Row]) -> Moved:
    """Return what the statement of `tick` answered."""
    leads, version, deletes, done, *found, place, _ = rows[0]
    return Moved(
        leads,
        version,
        deletes,
        done,
        [Found(*of) for of in zip(*found, strict=True)] if found[0] else [],
        place,
    )


def refresh(queue: int, after: UUID) -> Operation:
    """Charge running attempts that have outgrown their charge; return (last lease looked at, list).

    The list holds a `Refreshed` for each; the lease is None where there was none after `after`.
    """
    rows = yield SQL.call(
        "refresh",
        queue=queue,
        after=after,
        min_age_s=REFRESH_INTERVAL_S,
        cost_max_us=COST_MAX_US,
        leases_max=_REFRESH_LEASES_MAX,
        keys_max=_REFRESH_KEYS_MAX,
    )
    return rows[0][0], [Refreshed(*row[1:]) for row in rows if row[1] is not None]


def call_workers(queue: int, summons: str) -> Call:
    """Return the statement that calls workers for what stands ready: those that `summons` names
    (`wakeup.summons`), or all where it is empty.
    """
    return SQL.call("notify", channel=ready_channel(queue), payload=summons)


def set_floor(term: Term, value: int) -> Call:
    """Return the statement that publishes that no unclaimed ordinary key lies below `value`; only
    after the fence, before any insert.
    """
    return _set_floor(term, floor_sequence(term.queue), value)


def set_express_floor(term: Term, value: int) -> Call:
    """Return the statement that publishes that no unclaimed key of express work lies below `value`;
    as `set_floor`.
    """
    return _set_floor(term, express_floor_sequence(term.queue), value)


def _set_floor(term: Term, floor: str, value: int) -> Call:
    return SQL.call(
        "set_floor", queue=term.queue, epoch=term.epoch, term=term.term, floor=floor, value=value
    )


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


def lowest_unclaimed(queue: int) -> Operation:
    """Return the smallest unclaimed keys of ordinary and of express work, None where there is none.

    A full scan of what is in flight.
    """
    rows = yield SQL.call("lowest_unclaimed", queue=queue, main_min=MAIN_MIN)
    return rows[0]
