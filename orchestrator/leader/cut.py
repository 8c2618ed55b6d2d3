"""The leader's cut: its scheduler and snapshots as the last tick persisted them.

Loaded once a term, saved by every tick inside the tick's own transaction; so a takeover continues
exactly where the last commit stood. Rows are updated by their place (ctid), which the leader, their
only writer, remembers: through an index, a held snapshot would make each update walk every dead
version of the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
from orchestrator.store.admission import COUNT_MAX, FlowRow, OrgRow, QueueRow
from orchestrator.store.leadership import Term
from orchestrator.store.sql import Call, run

# Below every key of a flow: the cursor of a flow that was never read.
CURSOR_START = (-12, 0)


class Places(NamedTuple):
    """Where the persisted rows lie."""

    orgs: dict[str, str]
    flows: dict[tuple[str, str], str]


class Cut:
    """Scheduler, snapshots, cursors and row places of one queue during one term."""

    def __init__(self, queue: QueueConfig, row: QueueRow, scheduler: Scheduler) -> None:
        self.queue = queue
        self.row = row
        self.scheduler = scheduler
        self.places = Places({}, {})
        self.cursors: dict[tuple[str, str], tuple[int, int]] = {}
        # Flows that were counted up to the bound only: they hold more than is believed.
        self.uncounted: set[tuple[str, str]] = set()

    def adopt(self, queue: QueueConfig) -> None:
        """Put the queue's configuration in force; another policy takes the orgs over as they
        are.
        """
        if queue.policy is not self.queue.policy:
            before = self.scheduler
            self.scheduler = new_scheduler(
                queue.policy, virtual_time=before.virtual_time, admit_seq=before.admit_seq
            )
            for org in before.orgs.values():
                self.scheduler.load(org)
            self.scheduler.dirty = before.dirty
        self.queue = queue

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

    def saving(self) -> list[Call]:
        """Return the statements that persist what changed, in a fixed order."""
        queue, scheduler = self.queue.id, self.scheduler
        self.row.virtual_time = scheduler.virtual_time
        self.row.admit_seq = scheduler.admit_seq
        dirty = [scheduler.orgs[name] for name in sorted(scheduler.dirty)]
        orgs = [self._org_row(org) for org in dirty]
        flows = [self._flow_row(org, flow) for org in dirty for flow in org.flows.values()]
        calls = [admission.save_queue(queue, self.row)]
        calls += [admission.save_orgs(queue, part) for part in _split(orgs) if part]
        calls += [admission.save_flows(queue, part) for part in _split(flows) if part]
        return calls

    def saved(self, calls: list[Call], answers: list[Any]) -> None:
        """Remember the new places; raise `LeadershipLost` where a row was not where it should
        be.
        """
        (place,) = answers[0][0] if answers[0] else ("",)
        for call, rows in zip(calls[1:], answers[1:], strict=True):
            if len(rows) != len(call.params["orgs"]):
                raise LeadershipLost("rows of the persisted state were moved or deleted by others")
        if not place:
            raise LeadershipLost("the persisted state of the queue was moved or deleted by others")
        self.row.place = place
        for rows in answers[1:]:
            for *key, where in rows:
                if len(key) == 1:
                    self.places.orgs[key[0]] = where
                else:
                    self.places.flows[key[0], key[1]] = where

    def _org_row(self, org: OrgState) -> OrgRow:
        return OrgRow(
            org.org,
            org.tag,
            org.virtual_time,
            org.in_flight,
            org.last_admit,
            self.places.orgs.get(org.org, ""),
        )

    def _flow_row(self, org: OrgState, flow: FlowState) -> FlowRow:
        place = self.places.flows.get((org.org, flow.workload), "")
        # Never 0 while the count stopped at the bound: whoever takes over would forget the rest.
        more = (org.org, flow.workload) in self.uncounted
        return FlowRow(org.org, flow.workload, flow.tag, max(flow.backlog, int(more)), place)


def _split(rows: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Split rows into those that have a place and those that are new."""
    known: list[Any] = []
    new: list[Any] = []
    for row in rows:
        (known if row.place else new).append(row)
    return known, new


def new_scheduler(policy: Policy, *, virtual_time: int, admit_seq: int) -> Scheduler:
    """Return an empty scheduler of `policy` at this virtual time."""
    kind = StrictScheduler if policy is Policy.STRICT else WeightedScheduler
    return kind(virtual_time=virtual_time, admit_seq=admit_seq)


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
    if row.virtual_time > TAG_LIMIT:
        with connection.transaction():
            run(connection, admission.renormalise(queue.id, row.virtual_time))
        row, _, _ = run(connection, admission.load_queue(queue.id))
    cut = Cut(
        queue,
        row,
        new_scheduler(queue.policy, virtual_time=row.virtual_time, admit_seq=row.admit_seq),
    )
    _load_rows(connection, cut)
    return cut


def _rebuild(
    connection: Connection[Any], queue: QueueConfig, term: Term, system_identifier: str
) -> None:
    # One snapshot for the counts and for the feeds that continue from them. The fence comes first:
    # an election in between is a serialization failure, and ends this term.
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    with connection.transaction():
        if not run(connection, admission.fence(queue.id, term.epoch, term.term)):
            raise LeadershipLost("another replica was elected meanwhile")
        run(connection, admission.rebuild(queue.id, system_identifier))
    connection.isolation_level = None


def _load_rows(connection: Connection[Any], cut: Cut) -> None:
    flows: dict[str, list[FlowRow]] = {}
    for flow in run(connection, admission.load_flows(cut.queue.id)):
        flows.setdefault(flow.org, []).append(flow)
        cut.places.flows[flow.org, flow.workload] = flow.place
        if flow.backlog:
            # The term before may have stopped counting at the bound: look once more when it is
            # empty.
            cut.uncounted.add((flow.org, flow.workload))
    for org in run(connection, admission.load_orgs(cut.queue.id)):
        state = OrgState(
            org.org,
            tag=org.tag,
            virtual_time=org.virtual_time,
            in_flight=org.in_flight,
            last_admit=org.last_admit,
            flows={
                flow.workload: FlowState(flow.workload, flow.tag, flow.backlog)
                for flow in flows.get(org.org, ())
            },
        )
        cut.scheduler.load(state)
        cut.places.orgs[org.org] = org.place
