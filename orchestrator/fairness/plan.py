"""What one round decides, and what is needed to take it back."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from orchestrator.fairness.costs import charge_of
from orchestrator.fairness.state import FlowState, OrgState, Seat


class Pick(NamedTuple):
    """One admission of a plan, in order: whose task, on which slot, and what it is charged."""

    org: str
    workload: str
    charged_us: int
    weight: int
    share: int
    # On a slot of the express reserve, and charged to the express lane.
    reserved: bool = False
    # Of an express flow: workers claim it first, and keep room for it.
    express: bool = False


class Settled(NamedTuple):
    """Attempts of one flow that ended: their slots are free, their charges are corrected.

    `tag_delta` and `flow_delta` are the sums of true minus charged virtual cost, each at the weight
    and the share of its admission; `ran` of them ran, for `cost_us` of worker time together.
    """

    org: str
    workload: str
    reserved: bool
    slots: int
    ran: int
    cost_us: int
    tag_delta: int
    flow_delta: int


class Refreshed(NamedTuple):
    """An attempt that still runs and has outgrown its charge: from `charged_us` to `now_us`."""

    org: str
    workload: str
    reserved: bool
    weight: int
    share: int
    charged_us: int
    now_us: int


def refreshed_by(running: Refreshed, weight: int) -> int:
    """Return by how much refreshing moves a tag of this weight (or share)."""
    return charge_of(running.now_us, weight) - charge_of(running.charged_us, weight)


def settled(pick: Pick, cost_us: int, *, charged_us: int | None = None) -> Settled:
    """Return the settlement of one admission that took `cost_us`; 0 means that it never ran.

    `charged_us` is what it has been charged up to now, where that is more than at admission.
    """
    charged = pick.charged_us if charged_us is None else charged_us
    return Settled(
        pick.org,
        pick.workload,
        pick.reserved,
        slots=1,
        ran=int(cost_us > 0),
        cost_us=cost_us,
        tag_delta=charge_of(cost_us, pick.weight) - charge_of(charged, pick.weight),
        flow_delta=charge_of(cost_us, pick.share) - charge_of(charged, pick.share),
    )


class SavedSeat(NamedTuple):
    """The numbers of a seat before a plan."""

    tag: int
    virtual_time: int
    in_flight: int
    eligible: bool
    woken: int


# Of each org that a plan admits, both seats are noted: at once, not number by number.
_NUMBERS = attrgetter(*SavedSeat._fields)


class SavedOrg(NamedTuple):
    """The numbers of an org before a plan; those of a flow are (flow, tags, backlog, critical)."""

    state: OrgState
    last_admit: int
    backlog: int
    express_backlog: int
    seats: tuple[SavedSeat, SavedSeat]
    flows: list[tuple[FlowState, list[int], int, int]]

    @classmethod
    def of(cls, state: OrgState) -> SavedOrg:
        """Note the numbers of `state`."""
        main, express = state.seats
        return cls(
            state,
            state.last_admit,
            state.backlog,
            state.express_backlog,
            (SavedSeat._make(_NUMBERS(main)), SavedSeat._make(_NUMBERS(express))),
            [(f, f.tags.copy(), f.backlog, f.critical) for f in state.flows.values()],
        )

    def restore(self) -> None:
        """Put the numbers back, bit for bit; the slots held are the scheduler's to give back."""
        state = self.state
        state.last_admit = self.last_admit
        state.backlog, state.express_backlog = self.backlog, self.express_backlog
        for seat, saved in zip(state.seats, self.seats, strict=True):
            seat.tag, seat.virtual_time = saved.tag, saved.virtual_time
        for flow, tags, backlog, critical in self.flows:
            flow.tags, flow.backlog, flow.critical = tags, backlog, critical


@dataclass(slots=True)
class Plan:
    """The picks of one round, and what is needed to take them back."""

    picks: list[Pick] = field(default_factory=list)
    admit_seq: int = 0
    virtual_times: tuple[int, ...] = ()
    contended: tuple[bool, ...] = ()
    saved: dict[str, SavedOrg] = field(default_factory=dict)
    # Those that were taken out of line for want of headroom.
    set_aside: list[Seat] = field(default_factory=list)
