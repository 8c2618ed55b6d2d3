"""The leader's cut: its scheduler and snapshots as the last tick persisted them.

Loaded once a term, saved by every tick inside the tick's own transaction; so a takeover continues
exactly where the last commit stood. Rows are updated by their place (ctid), which the leader, their
only writer, remembers: through an index, a held snapshot would make each update walk every dead
version of the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from psycopg import Connection, IsolationLevel

from orchestrator.errors import LeadershipLost
from orchestrator.fairness import (
    TAG_LIMIT,
    FlowState,
    OrgState,
    Scheduler,
    StrictScheduler,
    WeightedScheduler,
)
from orchestrator.model import Policy, QueueConfig
from orchestrator.store import admission
from orchestrator.store.admission import COUNT_MAX, FlowRow, Moved, OrgRow, Portion, QueueRow
from orchestrator.store.leadership import Term
from orchestrator.store.packed import Int8s, Texts
from orchestrator.store.sql import just, run

# Orgs that one statement saves, with their flows.
ORGS_AT_ONCE = 10_000
# Below every key of a flow: the cursor of a flow that was never read.
CURSOR_START = (-12, 0)


class Places(NamedTuple):
    """Where the persisted rows lie."""

    orgs: dict[str, str]
    flows: dict[tuple[str, str], str]


class Cut:
    """Scheduler, snapshots, cursors and row places of one queue during one term."""

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
        self.places = Places({}, {})
        self.cursors: dict[tuple[str, str], tuple[int, int]] = {}
        # Flows that were counted up to the bound only: they hold more than is believed.
        self.uncounted: set[tuple[str, str]] = set()
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
        if found >= COUNT_MAX:
            self.uncounted.add((org, workload))

    def counted_flows(self, connection: Connection[Any]) -> Iterator[tuple[str, str, int]]:
        """Yield (org, workload, staged tasks) of every flow that has any, from the tables.

        The count of each stops at `COUNT_MAX`. Only of what the feeds have told, so that they tell
        the rest.
        """
        after = ("", "")
        counted = self.row.staging_snapshot
        while chunk := run(connection, admission.count_flows(self.queue.id, after, counted)):
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

    def saved(self, moved: Iterable[Moved]) -> None:
        """Remember where the rows lie that were saved, and forget that they were to be; after the
        commit.
        """
        for portion in moved:
            if portion.place:
                self.row.place = portion.place
            self.places.orgs.update(portion.orgs)
            for org, workload, place in portion.flows:
                self.places.flows[org, workload] = place
        self.scheduler.dirty.clear()
        self.settled_overruns.clear()

    def _portion(self, names: Sequence[str]) -> Portion:
        orgs = Texts(names)
        org_places = Texts(map(self.places.orgs.get, names))
        org_values, flow_values = Int8s(), Int8s()
        flow_orgs, flow_workloads, flow_places = Texts(), Texts(), Texts()
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
                flow_places.append(self.places.flows.get(key))
                # Never 0 while the count stopped at the bound: whoever takes over would forget the
                # rest.
                backlog = flow.backlog or int(key in self.uncounted)
                flow_values += (*flow.tags, backlog, flow.cost_us)
        return Portion(
            orgs, org_places, org_values, flow_orgs, flow_workloads, flow_places, flow_values
        )


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
    row, stored, actual = run(connection, admission.load_queue(queue.id))
    if stored != actual:
        if stored == "0":
            run(connection, admission.adopt(queue.id, actual))
        else:
            while run(connection, admission.adopt_rows(queue.id)):
                alive()
            _rebuild(connection, queue, term, actual)
        row, _, _ = run(connection, admission.load_queue(queue.id))
    cut = _load_rows(connection, queue, row, alive)
    if cut.highest_tag > TAG_LIMIT:
        with connection.transaction():
            run(connection, admission.renormalise(queue.id))
        row, _, _ = run(connection, admission.load_queue(queue.id))
        cut = _load_rows(connection, queue, row, alive)
    return cut


def _rebuild(
    connection: Connection[Any], queue: QueueConfig, term: Term, system_identifier: str
) -> None:
    # One snapshot for the counts and for the feeds that continue from them. The fence comes first:
    # an election in between is a serialization failure, and ends this term.
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    with connection.transaction():
        if not run(connection, just(admission.fence(term))):
            raise LeadershipLost("another replica was elected meanwhile")
        run(connection, admission.rebuild(queue.id, system_identifier))
    connection.isolation_level = None


def _load_rows(
    connection: Connection[Any], queue: QueueConfig, row: QueueRow, alive: Callable[[], None]
) -> Cut:
    """Take the rows over as they come: between two statements is never more than a chunk's work,
    or the server would take us for stopped.
    """
    cut = Cut(queue, row, new_scheduler(queue, row), alive)
    flows: dict[str, list[FlowRow]] = {}
    after = ("", "")
    while chunk := run(connection, admission.load_flows(queue.id, after)):
        alive()
        for flow in chunk:
            flows.setdefault(flow.org, []).append(flow)
            cut.places.flows[flow.org, flow.workload] = flow.place
            if flow.backlog:
                # The term before may have stopped counting at the bound: look once more when it
                # is empty.
                cut.uncounted.add((flow.org, flow.workload))
        after = chunk[-1].org, chunk[-1].workload
    org_after = ""
    while rows := run(connection, admission.load_orgs(queue.id, org_after)):
        alive()
        for org in rows:
            cut.scheduler.load(_org_state(org, flows.get(org.org, ())))
            cut.places.orgs[org.org] = org.place
        org_after = rows[-1].org
    return cut


def _org_state(org: OrgRow, flows: Iterable[FlowRow]) -> OrgState:
    state = OrgState(org.org, last_admit=org.last_admit)
    main, express = state.seats
    main.tag, main.virtual_time = org.tag, org.virtual_time
    main.in_flight, main.eligible = org.in_flight, org.eligible
    express.tag, express.virtual_time = org.express_tag, org.express_virtual_time
    express.in_flight, express.eligible = org.express_in_flight, org.express_eligible
    for flow in flows:
        state.flows[flow.workload] = FlowState(
            flow.workload, [flow.tag, flow.express_tag], flow.backlog, cost_us=flow.cost_us
        )
    return state
