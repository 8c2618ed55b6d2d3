"""SSFQ: settled, hierarchical start-time fair queueing over the slots of one queue.

The protocol, in the words of the glossary:

- Every org has a *tag*. The org with the smallest tag among the eligible ones is admitted next, and
  pays `cost / weight`. Virtual time V is the tag of the last org admitted; it never goes back.
- The cost is a guess at admission, and *settled* to the true one when the attempt ends, at the same
  weight: what an attempt is charged in all is exactly its worker time. One that runs past its
  charge is *refreshed*: charged for what it has used already, in geometric steps.
- An org that becomes eligible (new work, a slot freed, unpaused, a cap raised) starts at
  `max(tag, V)`: whoever was idle banks nothing, and a newcomer waits for at most one admission of
  each other org, not for their backlogs. Refunds can leave everybody in line below V; then it
  starts beside the first of them, not behind all.
- *Forgiven*: where the last round left nobody eligible waiting, V goes up to the tags of those that
  run. What was used while nobody else wanted it is no debt.
- Inside an org the same rule picks the workload, by share, in the org's own virtual time. Only a
  flow with a critical task at its head goes before; it is charged like any other, so that nothing
  is bought from other orgs.
- Eligible: has backlog, is below `burst_max`, is not paused, and leaves the *headroom* the queue
  asks for.
- Two *lanes*, each with its own tags and virtual time: all work competes for the main lane; what
  express work is left then competes for the reserve.
- A plan is made on a journal. Where a flow turned out to hold fewer tasks than believed, `undo`
  restores every tag bit for bit, and the plan is made again with the true count; else V would run
  ahead of what was admitted and a newcomer would wait for the difference.

A round: `settle` and `refresh`, then `wake`, then `arrive`, then `plan`, then `close_round`.

Ties: an org with nothing in flight first, then the one served longest ago, then the one that
appeared first. Never the name: renaming orgs permutes the result.

Sources: SFQ (Goyal, Vin, Cheng 1996), also hierarchical; SFQ(D) (Jin, Chase, Kaur 2004) for several
slots; 2DFQ (Mace et al. 2016) for refreshing; API priority and fairness (Kubernetes KEP-1040) for
guess and correction. Cost: O(log orgs) per admission, nothing per task that waits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from orchestrator.fairness.costs import COUNT_COST_US, GUESS_US, TAG_LIMIT, charge_of, learn
from orchestrator.fairness.line import Line
from orchestrator.fairness.plan import Pick, Plan, Refreshed, SavedOrg, Settled, refreshed_by
from orchestrator.fairness.standing import Standing
from orchestrator.fairness.state import EXPRESS, MAIN, FlowState, Lane, OrgState, Seat
from orchestrator.model import CostMode

_TAG_CEILING = 2 * TAG_LIMIT
# For `EXPRESS` and this see there: they are asked for at every admission.
_TIME = CostMode.TIME


class Scheduler(Standing):
    """The orgs of one queue and the order in which they are admitted.

    Events come in (`configure`, `arrive`, `settle` …), `plan` answers.
    """

    def __init__(
        self,
        *,
        cost_mode: CostMode = CostMode.TIME,
        virtual_time: int = 0,
        express_virtual_time: int = 0,
        admit_seq: int = 0,
        cost_us: int = 0,
    ) -> None:
        super().__init__(virtual_time, express_virtual_time, admit_seq)
        self.cost_mode = cost_mode
        # What a task of a flow that was never measured is expected to take; 0 is unknown.
        self.cost_us = cost_us
        # A virtual time has become so large that the next election should renormalise.
        self.overdue = False

    # What is asked ------------------------------------------------------------------------------

    @property
    def virtual_time(self) -> int:
        """Return the virtual time of the main lane."""
        return self.main.virtual_time

    @property
    def eligible(self) -> int:
        """Return how many orgs a free slot could go to."""
        return max(self.main.eligible, self.express.eligible)

    def estimate_us(self, flow: FlowState) -> int:
        """Return what a task of `flow` is expected to take, in microseconds of worker time."""
        return flow.cost_us or self.cost_us or GUESS_US

    def measured_us(self, org: str, workload: str) -> int:
        """Return what a task of a flow takes by what was measured; 0 where nothing was."""
        state = self.orgs.get(org)
        flow = state.flows.get(workload) if state else None
        return (flow.cost_us if flow else 0) or self.cost_us

    def order(self, lane: Lane = Lane.MAIN) -> Iterator[OrgState]:
        """Yield the eligible orgs of a lane as they stand in line now, without admitting any."""
        seats = (state.seats[lane] for state in self.orgs.values())
        line = sorted((self._key(s), s.stamp, s) for s in seats if s.eligible)
        for _, _, seat in line:
            yield seat.state

    # Events -------------------------------------------------------------------------------------

    def configure(
        self, org: str, *, weight: int, rank: int, burst_max: int | None, paused: bool
    ) -> None:
        """Set what operators decide of `org`; acts on future charges, never on past ones."""
        state = self.org(org)
        state.weight, state.rank = weight, rank
        state.burst_max, state.paused = burst_max, paused
        # A leader that has loaded its orgs configures all of them, and nearly all stand right.
        # Whoever waits to be woken is looked at then: after what ended was settled, and forgiven.
        if org not in self._touched and (self._by_decision or not _stands_right(state)):
            self._update(state)

    def arrive(self, org: str, workload: str, count: int) -> None:
        """Note `count` more tasks staged in the flow (org, workload)."""
        self.set_backlog(org, workload, self._flow(self.org(org), workload).backlog + count)

    def set_backlog(self, org: str, workload: str, count: int) -> None:
        """Set how many tasks wait in the flow (org, workload)."""
        state = self.org(org)
        flow = self._flow(state, workload)
        waited = flow.backlog > 0
        if not waited and count > 0:
            for seat in state.seats:
                start = min([other.tags[seat.lane] for other in waiting(seat)], default=None)
                if start is None or start > seat.virtual_time:
                    start = seat.virtual_time
                flow.tags[seat.lane] = max(flow.tags[seat.lane], start)
        more = count - flow.backlog
        flow.backlog = count
        state.backlog += more
        self.backlog += more
        if flow.express:
            state.express_backlog += more
        self.dirty.add(org)
        # Who waited already and still does stands where he stood.
        if waited is not (count > 0):
            self._update(state)

    def settle(self, ended: Settled) -> None:
        """Free the slots of attempts that ended and correct their charges; `wake` acts on it."""
        state = self.org(ended.org)
        lane = EXPRESS if ended.reserved else MAIN
        seat = state.seats[lane]
        if seat.in_flight < ended.slots:
            raise ValueError(
                f"{ended.org!r}: {ended.slots} attempts ended, {seat.in_flight} are in flight"
            )
        self._hold(state, lane, -ended.slots)
        flow = self._flow(state, ended.workload)
        if self.cost_mode is _TIME:
            seat.tag += ended.tag_delta
            flow.tags[lane] += ended.flow_delta
        if ended.ran:
            flow.cost_us = learn(flow.cost_us, ended.cost_us, ended.ran)
            self.cost_us = learn(self.cost_us, ended.cost_us, ended.ran)
            self._classify(state, flow)
        self._touch(state)

    def refresh(self, running: Refreshed) -> None:
        """Charge an attempt for what it has used beyond its charge; `wake` acts on it."""
        if self.cost_mode is CostMode.COUNT:
            return
        state = self.org(running.org)
        lane = Lane(running.reserved)
        flow = self._flow(state, running.workload)
        state.seats[lane].tag += refreshed_by(running, running.weight)
        flow.tags[lane] += refreshed_by(running, running.share)
        now = running.now_us
        if now > self.estimate_us(flow):
            # It will have taken at least this: the next guess, and a false express flow, are
            # corrected before it ends.
            flow.cost_us = learn(flow.cost_us or self.cost_us, now, 1)
            self._classify(state, flow)
        self._touch(state)

    def set_in_flight(self, org: str, count: int, lane: Lane = Lane.MAIN) -> None:
        """Correct how many slots of a lane `org` holds, after a count of the rows."""
        state = self.org(org)
        self._hold(state, lane, count - state.seats[lane].in_flight)
        self._touch(state)
        self.wake()

    # The plan -----------------------------------------------------------------------------------

    def plan(self, slots: int, express: int = 0) -> Plan:
        """Give up to `slots` free slots away, then up to `express` of the reserve.

        The picks come in the order of admission.
        """
        self.wake()
        main, reserve = self.main, self.express
        plan = Plan(
            admit_seq=self.admit_seq,
            virtual_times=(main.virtual_time, reserve.virtual_time),
            contended=(main.contended, reserve.contended),
        )
        self._give(plan, main, slots)
        if express:
            self._give(plan, reserve, express)
        self.close_round()
        return plan

    def undo(self, plan: Plan) -> None:
        """Take `plan` back: every tag, count and virtual time is as it was before it."""
        self.admit_seq = plan.admit_seq
        for line, virtual_time, contended in zip(
            self.lines, plan.virtual_times, plan.contended, strict=True
        ):
            line.virtual_time, line.contended = virtual_time, contended
        for saved in plan.saved.values():
            state = saved.state
            for lane, seat in zip(Lane, state.seats, strict=True):
                self._hold(state, lane, saved.seats[lane].in_flight - seat.in_flight)
            self.backlog += saved.backlog - state.backlog
            saved.restore()
            for line, seat, before in zip(self.lines, state.seats, saved.seats, strict=True):
                self._stand(line, seat, before.eligible, clip=False)
                seat.woken = before.woken
        for seat in plan.set_aside:
            self._stand(self.main, seat, True, clip=False)

    # What a policy decides ----------------------------------------------------------------------

    # Whether what operators decide of an org could move it in line while it is eligible.
    _by_decision: ClassVar[bool] = True

    @abstractmethod
    def _choose(self, seat: Seat) -> FlowState:
        """Return the flow of the org that the seat's next slot goes to."""

    def critical_flows(self, state: OrgState) -> list[FlowState]:
        """Return the flows of the org whose critical tasks its next ordinary slots go to."""
        return [flow for flow in waiting(state.main) if flow.critical]

    # Mechanics ----------------------------------------------------------------------------------

    def _give(self, plan: Plan, line: Line, slots: int) -> None:
        for _ in range(slots):
            seat = self._next(plan, line)
            if seat is None:
                return
            if seat.state.org not in plan.saved:
                plan.saved[seat.state.org] = SavedOrg.of(seat.state)
            plan.picks.append(self._admit(line, seat))

    def _next(self, plan: Plan, line: Line) -> Seat | None:
        """Take the first eligible seat that has headroom out of the line."""
        while (seat := line.pop()) is not None:
            if line is self.express or self._headroom.has(seat.state, self.in_flight):
                return seat
            self._stand(line, seat, False, clip=False)
            self._headroom.set_aside(seat.state)
            plan.set_aside.append(seat)
        return None

    def _admit(self, line: Line, seat: Seat) -> Pick:
        state, lane = seat.state, line.lane
        flow = self._choose(seat)
        tag = flow.tags[lane]
        charged_us = COUNT_COST_US
        if self.cost_mode is _TIME:
            charged_us = self.estimate_us(flow)
        if seat.tag > line.virtual_time:
            line.virtual_time = seat.tag
        if tag > seat.virtual_time:
            seat.virtual_time = tag
        seat.tag += charge_of(charged_us, state.weight)
        flow.tags[lane] = tag + charge_of(charged_us, flow.share)
        if line.virtual_time > _TAG_CEILING or seat.virtual_time > _TAG_CEILING:
            self.overdue = True
        self.admit_seq += 1
        state.last_admit = self.admit_seq
        if not state.in_flight:
            self._running[state.org] = state
        seat.in_flight += 1
        state.in_flight += 1
        line.in_flight += 1
        self.in_flight += 1
        flow.backlog -= 1
        if flow.critical:
            flow.critical -= 1
        state.backlog -= 1
        self.backlog -= 1
        if flow.express:
            state.express_backlog -= 1
        self.dirty.add(state.org)
        self._update(state)
        reserved = lane is EXPRESS
        return Pick(
            state.org, flow.workload, charged_us, state.weight, flow.share, reserved, flow.express
        )


def _stands_right(state: OrgState) -> bool:
    """Tell whether an org is in line where it may run, and nowhere else."""
    may_run = state.may_run
    may_use_reserve = may_run and state.express_backlog > 0
    return state.main.eligible == may_run and state.express.eligible == may_use_reserve


def waiting(seat: Seat) -> list[FlowState]:
    """Return the flows of an org that a slot of the seat's lane could go to."""
    flows = seat.state.flows.values()
    if seat.lane is EXPRESS:
        return [flow for flow in flows if flow.backlog > 0 and flow.express]
    return [flow for flow in flows if flow.backlog > 0]
