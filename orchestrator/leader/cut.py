"""The leader's cut: its scheduler and snapshots as the last tick persisted them.

Loaded once a term, saved by every tick inside the tick's own transaction; so a takeover continues
exactly where the last commit stood. What a tick changed of orgs and flows is one row of a journal,
which is folded into their tables beside the ticks (`folding.py`). The row of the queue is updated
by its place (ctid), which the leader, its only writer, remembers: through an index, a held snapshot
would make each update walk every dead version of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from sys import intern
from typing import Any

from psycopg import Connection, IsolationLevel

from orchestrator.fairness import (
    TAG_LIMIT,
    FlowState,
    OrgState,
    Scheduler,
    StrictScheduler,
    WeightedScheduler,
)
from orchestrator.leader.fence import hold
from orchestrator.leader.uncollected import uncollected
from orchestrator.model import Policy, QueueConfig, Workload
from orchestrator.store import cut as stored
from orchestrator.store import orgs
from orchestrator.store.admission import Moved, Portion, QueueRow
from orchestrator.store.leadership import Term
from orchestrator.store.packed import Int8s, Texts
from orchestrator.store.sql import Rows, run

# Orgs that one statement saves, with their flows.
ORGS_AT_ONCE = 10_000
# Below every key of a flow: the cursor of a flow that was never read.
CURSOR_START = (-12, 0)


class Cut:
    """Scheduler, snapshots and cursors of one queue during one term."""

    def __init__(
        self,
        queue: QueueConfig,
        row: QueueRow,
        scheduler: Scheduler,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        # Called between the stretches of long work.
        self.alive = alive
        self.queue = queue
        self.row = row
        self.scheduler = scheduler
        self.cursors: dict[tuple[str, str], tuple[int, int]] = {}
        # Flows that were counted up to the bound only: they hold more than is believed.
        self.uncounted: set[tuple[str, str]] = set()
        # How often it was saved.
        self.saves = 0
        # Keys of settled attempts that had overrun their charge: dropped with the next save.
        self.settled_overruns: list[int] = []

    def adopt(self, queue: QueueConfig) -> None:
        """Put the queue's configuration in force; another policy takes the orgs over as they
        are.
        """
        if queue.policy is not self.queue.policy:
            before = self.scheduler
            self._note_scheduler()
            self.scheduler = new_scheduler(queue, self.row)
            for org in before.orgs.values():
                # What one policy kept waiting is no credit under another: all are woken.
                org.main.eligible = org.express.eligible = False
                self.scheduler.load(org)
            self.scheduler.dirty = before.dirty
        self.scheduler.cost_mode = queue.cost_mode
        self.scheduler.set_limits(capacity=queue.capacity, headroom=queue.headroom)
        self.queue = queue

    def _note_scheduler(self) -> None:
        """Note in the row what the scheduler keeps for the queue as a whole."""
        row, scheduler = self.row, self.scheduler
        row.virtual_time, row.contended = scheduler.main.virtual_time, scheduler.main.contended
        row.express_virtual_time = scheduler.express.virtual_time
        row.express_contended = scheduler.express.contended
        row.cost_us, row.admit_seq = scheduler.cost_us, scheduler.admit_seq

    @property
    def highest_tag(self) -> int:
        """Return the highest virtual time of the cut; no tag is far above its virtual time."""
        lines = [line.virtual_time for line in self.scheduler.lines]
        seats = (seat for org in self.scheduler.orgs.values() for seat in org.seats)
        return max(lines + [seat.virtual_time for seat in seats])

    def lower_cursor(self, org: str, workload: str, neg_priority: int, task_id: int) -> None:
        """Make sure the flow is read from (neg_priority, task_id) on."""
        flow = (org, workload)
        below = (neg_priority, task_id - 1)
        if below < self.cursors.get(flow, CURSOR_START):
            self.cursors[flow] = below

    def recount(self, org: str, workload: str, found: int) -> None:
        """Take over a count of the whole flow, which stopped at `COUNT_MAX`."""
        self.cursors.pop((org, workload), None)
        self.scheduler.set_backlog(org, workload, found)
        if found >= stored.COUNT_MAX:
            self.uncounted.add((org, workload))

    def counted_flows(self, connection: Connection[Any]) -> Iterator[tuple[str, str, int]]:
        """Yield (org, workload, staged tasks) of every flow that has any, from the tables.

        The count of each stops at `COUNT_MAX`. Only of what the feeds have told, so that they tell
        the rest.
        """
        after = ("", "")
        counted = self.row.staging_snapshot
        while chunk := run(connection, stored.count_flows(self.queue.id, after, counted)):
            self.alive()
            yield from (flow for flow in chunk if flow[2])
            after = chunk[-1][:2]

    def saving(self) -> list[Portion]:
        """Return what changed, by org, to be saved in portions; there is always a last one.

        A hundred thousand orgs may come at once, and no statement may be near its timeout then.
        """
        self._note_scheduler()
        names = sorted(self.scheduler.dirty)
        starts = range(0, max(1, len(names)), ORGS_AT_ONCE)
        return [self._portion(names[start : start + ORGS_AT_ONCE]) for start in starts]

    def saved(self, moved: Moved) -> None:
        """Remember where the row of the queue lies now, and forget what was to be saved; after the
        commit.
        """
        self.row.place = moved.place
        self.scheduler.dirty.clear()
        self.settled_overruns.clear()
        self.saves += 1

    def _portion(self, names: Sequence[str]) -> Portion:
        orgs = Texts(names)
        org_values, flow_values = Int8s(), Int8s()
        flow_orgs, flow_workloads = Texts(), Texts()
        for name in names:
            org = self.scheduler.orgs[name]
            main, express = org.seats
            org_values += (main.tag, main.virtual_time, main.in_flight, main.eligible)
            org_values += (express.tag, express.virtual_time, express.in_flight, express.eligible)
            org_values.append(org.last_admit)
            for workload, flow in org.flows.items():
                key = (name, workload)
                flow_orgs.append(name)
                flow_workloads.append(workload)
                # Never 0 while the count stopped at the bound: whoever takes over would forget the
                # rest.
                backlog = flow.backlog or int(key in self.uncounted)
                flow_values += (*flow.tags, backlog, flow.cost_us)
        return Portion(orgs, org_values, flow_orgs, flow_workloads, flow_values)


def new_scheduler(queue: QueueConfig, row: QueueRow) -> Scheduler:
    """Return a scheduler of the queue's policy at these virtual times, without any org."""
    kind = StrictScheduler if queue.policy is Policy.STRICT else WeightedScheduler
    scheduler = kind(
        cost_mode=queue.cost_mode,
        virtual_time=row.virtual_time,
        express_virtual_time=row.express_virtual_time,
        admit_seq=row.admit_seq,
        cost_us=row.cost_us,
    )
    scheduler.main.contended = row.contended
    scheduler.express.contended = row.express_contended
    scheduler.set_limits(capacity=queue.capacity, headroom=queue.headroom)
    return scheduler


def load(
    connection: Connection[Any], queue: QueueConfig, term: Term, alive: Callable[[], None]
) -> Cut:
    """Load the persisted cut, rebuilt first where it belongs to another cluster.

    Calls `alive` between the stretches of long work.
    """
    row, written_by, actual = run(connection, stored.load_queue(queue.id))
    if written_by != actual:
        if written_by == "0":
            run(connection, stored.adopt(queue.id, actual))
        else:
            while run(connection, stored.adopt_rows(queue.id)):
                alive()
            _rebuild(connection, queue, term, actual)
        row, _, _ = run(connection, stored.load_queue(queue.id))
    cut = _load_rows(connection, queue, row, alive)
    if cut.highest_tag > TAG_LIMIT:
        with connection.transaction():
            # Rows that were moved by whoever leads no more would end the term of whoever does.
            hold(connection, term)
            run(connection, stored.renormalise(queue.id))
        row, _, _ = run(connection, stored.load_queue(queue.id))
        cut = _load_rows(connection, queue, row, alive)
    return cut


def _rebuild(
    connection: Connection[Any], queue: QueueConfig, term: Term, system_identifier: str
) -> None:
    # One snapshot for the counts and for the feeds that continue from them. The fence comes first:
    # an election in between is a serialization failure, and ends this term.
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    with connection.transaction():
        hold(connection, term)
        run(connection, stored.rebuild(queue.id, system_identifier))
    connection.isolation_level = None


def _load_rows(
    connection: Connection[Any], queue: QueueConfig, row: QueueRow, alive: Callable[[], None]
) -> Cut:
    """Take the rows over as they come: between two statements is never more than a chunk's work,
    or the server would take us for stopped.
    """
    cut = Cut(queue, row, new_scheduler(queue, row), alive)
    # Before the orgs: express work is in line for the reserve, too. It is read again under the
    # fence.
    set_workloads(cut.scheduler, run(connection, orgs.workloads()))
    flows: dict[str, dict[str, FlowState]] = {}
    flow_after, org_after = ("", ""), ""
    with uncollected():
        while rows := run(connection, stored.load_flows(queue.id, flow_after)):
            alive()
            _take_flows(cut, rows, flows)
            flow_after = rows[-1][:2]
        while rows := run(connection, stored.load_orgs(queue.id, org_after)):
            alive()
            _take_orgs(cut, rows, flows)
            org_after = rows[-1][0]
    return cut


def _take_flows(cut: Cut, rows: Rows, flows: dict[str, dict[str, FlowState]]) -> None:
    """Make the flows of persisted rows, and add them to `flows` by org and workload."""
    uncounted = cut.uncounted
    for org, workload, tag, express_tag, backlog, cost_us in rows:
        # Workloads are few: one text for all of their flows.
        name = intern(workload)
        flow = FlowState(name, [tag, express_tag], backlog, cost_us=cost_us)
        if org in flows:
            flows[org][name] = flow
        else:
            flows[org] = {name: flow}
        if backlog:
            # The term before may have stopped counting at the bound: look once more when it is
            # empty.
            uncounted.add((org, name))


def _take_orgs(cut: Cut, rows: Rows, flows: dict[str, dict[str, FlowState]]) -> None:
    """Make the orgs of persisted rows with their flows, and have the scheduler take them over."""
    load = cut.scheduler.load
    for (
        org,
        tag,
        virtual_time,
        in_flight,
        eligible,
        express_tag,
        express_virtual_time,
        express_in_flight,
        express_eligible,
        last_admit,
    ) in rows:
        state = OrgState(org, last_admit=last_admit, flows=flows.pop(org, {}))
        main, express = state.main, state.express
        main.tag, main.virtual_time = tag, virtual_time
        main.in_flight, main.eligible = in_flight, eligible
        express.tag, express.virtual_time = express_tag, express_virtual_time
        express.in_flight, express.eligible = express_in_flight, express_eligible
        load(state)


def set_workloads(scheduler: Scheduler, workloads: Iterable[Workload]) -> None:
    """Set what operators decided of the workloads."""
    for workload in workloads:
        max_s = workload.express_max_s
        scheduler.set_workload(
            workload.name,
            share=workload.share,
            rank=workload.rank,
            express=workload.express,
            express_max_us=None if max_s is None else round(max_s * 1e6),
        )
