"""SSFQ in count mode: hierarchical start-time fair queueing over the slots of one queue.

The protocol, in the words of the glossary:

- Every org has a *tag*. The org with the smallest tag among the eligible ones is admitted next, and
  pays `cost / weight`. Virtual time V is the tag of the last org admitted; it never goes back.
- An org that becomes eligible (new work, a slot freed, unpaused, a cap raised) starts at
  `max(tag, V)`: whoever was idle banks nothing, and a newcomer waits for at most one admission of
  each other org, not for their backlogs.
- Inside an org the same rule picks the workload, by share, in the org's own virtual time.
- Eligible: has backlog, is below `burst_max`, is not paused.
- A plan is made on a journal. Where a flow turned out to hold fewer tasks than believed, `undo`
  restores every tag bit for bit, and the plan is made again with the true count; else V would run
  ahead of what was admitted and a newcomer would wait for the difference.

Ties: an org with nothing in flight first, then the one served longest ago, then the one that
appeared first. Never the name: renaming orgs permutes the result.

Sources: SFQ (Goyal, Vin, Cheng 1996); hierarchical SFQ (same); the clip on waking is what keeps
`V <= tag` for the eligible. Cost: O(log orgs) per admission, nothing per task that waits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from orchestrator.fairness.costs import COUNT_COST_US, charge_of
from orchestrator.fairness.state import FlowState, OrgState

# Stale heap entries are dropped when they outnumber the live ones by this factor.
_HEAP_SLACK = 4
_HEAP_MIN = 1024


class Pick(NamedTuple):
    """One admission of a plan, in order: whose task, and what it is charged."""

    org: str
    workload: str
    charge: int
    weight: int


class _Saved(NamedTuple):
    tag: int
    virtual_time: int
    in_flight: int
    last_admit: int
    backlog: int
    flows: tuple[tuple[FlowState, int, int], ...]


@dataclass(slots=True)
class Plan:
    """The picks of one tick, and what is needed to take them back."""

    picks: list[Pick] = field(default_factory=list)
    virtual_time: int = 0
    admit_seq: int = 0
    saved: dict[str, _Saved] = field(default_factory=dict)


_Entry = tuple[tuple[int, ...], int, OrgState]


class Scheduler(ABC):
    """The orgs of one queue and the order in which they are admitted.

    Events come in (`configure`, `arrive`, `settle`), `plan` answers. `dirty` collects the orgs
    whose persisted rows are out of date; the owner clears it once they are written.
    """

    def __init__(self, *, virtual_time: int = 0, admit_seq: int = 0) -> None:
        self.virtual_time = virtual_time
        self.admit_seq = admit_seq
        self.in_flight = 0
        self.backlog = 0
        self.eligible = 0
        self.orgs: dict[str, OrgState] = {}
        self.dirty: set[str] = set()
        self._shares: dict[str, int] = {}
        self._ranks: dict[str, int] = {}
        self._heap: list[_Entry] = []
        self._appeared = 0
        self._pushed = 0

    # Events -----------------------------------------------------------------------------------

    def set_workload(self, workload: str, *, share: int, rank: int) -> None:
        """Set the share and the rank of a workload, for every org."""
        if self._shares.get(workload) == share and self._ranks.get(workload) == rank:
            return
        self._shares[workload] = share
        self._ranks[workload] = rank
        for org in self.orgs.values():
            if workload in org.flows:
                self._update(org)

    def configure(
        self, org: str, *, weight: int, rank: int, burst_max: int | None, paused: bool
    ) -> None:
        """Set what operators decide of `org`; acts on future charges, never on past ones."""
        state = self.org(org)
        state.weight, state.rank = weight, rank
        state.burst_max, state.paused = burst_max, paused
        self._update(state)

    def org(self, name: str) -> OrgState:
        """Return the state of org `name`, a new one at the current virtual time if unknown."""
        state = self.orgs.get(name)
        if state is None:
            self._appeared += 1
            state = OrgState(name, last_admit=self._appeared - 2**62)
            self.orgs[name] = state
        return state

    def load(self, state: OrgState) -> None:
        """Take over an org as it was persisted, or from another policy.

        It is woken: what decided while nobody looked (a cap raised, an org resumed) gives no credit
        for the time before. For an org that was eligible then, the clip changes nothing.
        """
        state.backlog = sum(flow.backlog for flow in state.flows.values())
        self.backlog += state.backlog
        self.orgs[state.org] = state
        self.in_flight += state.in_flight
        self._appeared = max(
            self._appeared, state.last_admit + 2**62 if state.last_admit < 0 else 0
        )
        state.eligible = False
        self._update(state)

    def arrive(self, org: str, workload: str, count: int) -> None:
        """Note `count` more tasks staged in the flow (org, workload)."""
        self.set_backlog(org, workload, self._flow(org, workload).backlog + count)

    def set_backlog(self, org: str, workload: str, count: int) -> None:
        """Set how many tasks wait in the flow (org, workload)."""
        state = self.org(org)
        flow = self._flow(org, workload)
        if flow.backlog == 0 and count > 0:
            flow.tag = max(flow.tag, state.virtual_time)
        state.backlog += count - flow.backlog
        self.backlog += count - flow.backlog
        flow.backlog = count
        self.dirty.add(org)
        self._update(state)

    def settle(self, org: str, ended: int) -> None:
        """Free the slots of `ended` attempts of `org`."""
        state = self.org(org)
        if state.in_flight < ended:
            raise ValueError(f"{org!r}: {ended} attempts ended, {state.in_flight} are in flight")
        state.in_flight -= ended
        self.in_flight -= ended
        self.dirty.add(org)
        self._update(state)

    def waits(self, org: str, workload: str) -> bool:
        """Tell whether the flow (org, workload) is believed to hold work."""
        state = self.orgs.get(org)
        flow = state.flows.get(workload) if state else None
        return flow is not None and flow.backlog > 0

    def set_in_flight(self, org: str, count: int) -> None:
        """Correct how many slots `org` holds, after a count of the rows."""
        state = self.org(org)
        self.in_flight += count - state.in_flight
        state.in_flight = count
        self.dirty.add(org)
        self._update(state)

    # The plan ---------------------------------------------------------------------------------

    def plan(self, slots: int) -> Plan:
        """Give up to `slots` free slots away; the picks come in the order of admission."""
        plan = Plan(virtual_time=self.virtual_time, admit_seq=self.admit_seq)
        while len(plan.picks) < slots:
            state = self._pop()
            if state is None:
                break
            self._save(plan, state)
            plan.picks.append(self._admit(state))
        return plan

    def undo(self, plan: Plan) -> None:
        """Take `plan` back: every tag, count and the virtual time are as they were before it."""
        for name, saved in plan.saved.items():
            state = self.orgs[name]
            self.in_flight += saved.in_flight - state.in_flight
            self.backlog += saved.backlog - state.backlog
            state.tag, state.virtual_time = saved.tag, saved.virtual_time
            state.in_flight, state.last_admit = saved.in_flight, saved.last_admit
            state.backlog = saved.backlog
            for flow, tag, backlog in saved.flows:
                flow.tag, flow.backlog = tag, backlog
            self.eligible += state.may_run - state.eligible
            state.eligible = state.may_run
            self._push(state)
        self.virtual_time, self.admit_seq = plan.virtual_time, plan.admit_seq

    def order(self) -> Iterator[OrgState]:
        """Yield the eligible orgs as they stand in line now, without admitting any."""
        for _, _, state in sorted(
            (self._key(s), s.stamp, s) for s in self.orgs.values() if s.eligible
        ):
            yield state

    # What a policy decides --------------------------------------------------------------------

    @abstractmethod
    def _key(self, state: OrgState) -> tuple[int, ...]:
        """Return where `state` stands in line; the smallest goes first; unique among orgs."""

    @abstractmethod
    def _choose(self, state: OrgState) -> FlowState:
        """Return the flow of `state` that its next slot goes to."""

    @abstractmethod
    def _charge(self, state: OrgState, flow: FlowState) -> int:
        """Move the tags for one admission of `flow`; return what it was charged."""

    @abstractmethod
    def _wake(self, state: OrgState) -> None:
        """Adjust an org that becomes eligible."""

    # Mechanics --------------------------------------------------------------------------------

    def _flow(self, org: str, workload: str) -> FlowState:
        flows = self.org(org).flows
        flow = flows.get(workload)
        if flow is None:
            flow = flows[workload] = FlowState(workload)
        return flow

    def _admit(self, state: OrgState) -> Pick:
        flow = self._choose(state)
        charge = self._charge(state, flow)
        self.admit_seq += 1
        state.last_admit = self.admit_seq
        state.in_flight += 1
        self.in_flight += 1
        flow.backlog -= 1
        state.backlog -= 1
        self.backlog -= 1
        self.dirty.add(state.org)
        self._update(state)
        return Pick(state.org, flow.workload, charge, state.weight)

    def _update(self, state: OrgState) -> None:
        """Bring eligibility and the place in line up to date after any change of `state`."""
        may_run = state.may_run
        if may_run and not state.eligible:
            self._wake(state)
        self.eligible += may_run - state.eligible
        state.eligible = may_run
        self._push(state)

    def _push(self, state: OrgState) -> None:
        # One count for all orgs: entries of two orgs may agree in everything else after an undo.
        self._pushed += 1
        state.stamp = self._pushed
        if state.eligible:
            heappush(self._heap, (self._key(state), state.stamp, state))
            if len(self._heap) > _HEAP_MIN + _HEAP_SLACK * self.eligible:
                self._heap = [entry for entry in self._heap if entry[1] == entry[2].stamp]
                heapify(self._heap)

    def _pop(self) -> OrgState | None:
        while self._heap:
            _, stamp, state = heappop(self._heap)
            if stamp == state.stamp and state.eligible:
                return state
        return None

    def _save(self, plan: Plan, state: OrgState) -> None:
        if state.org not in plan.saved:
            plan.saved[state.org] = _Saved(
                state.tag,
                state.virtual_time,
                state.in_flight,
                state.last_admit,
                state.backlog,
                tuple((f, f.tag, f.backlog) for f in state.flows.values()),
            )


class WeightedScheduler(Scheduler):
    """Start-time fair queueing by weight, and inside an org by share."""

    def _key(self, state: OrgState) -> tuple[int, ...]:
        return (state.tag, state.in_flight > 0, state.last_admit)

    def _choose(self, state: OrgState) -> FlowState:
        return min(
            _waiting(state.flows.values()),
            key=lambda flow: (flow.tag, self._ranks.get(flow.workload, 0), flow.workload),
        )

    def _charge(self, state: OrgState, flow: FlowState) -> int:
        self.virtual_time = max(self.virtual_time, state.tag)
        state.virtual_time = max(state.virtual_time, flow.tag)
        charge = charge_of(COUNT_COST_US, state.weight)
        state.tag += charge
        flow.tag += charge_of(COUNT_COST_US, self._shares.get(flow.workload, 1))
        return charge

    def _wake(self, state: OrgState) -> None:
        state.tag = max(state.tag, self.virtual_time)


def _waiting(flows: Iterable[FlowState]) -> Iterator[FlowState]:
    return (flow for flow in flows if flow.backlog > 0)
