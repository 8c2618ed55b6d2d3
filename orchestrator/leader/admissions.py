"""What a plan asks of the database, flow by flow, and the keys by which workers will claim it."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.fairness import Plan
from orchestrator.leader.cut import CURSOR_START, Cut
from orchestrator.model import PRIORITY_MAX
from orchestrator.store.admission import Wanted
from orchestrator.store.names import EXPRESS_SHIFT

# Of a key, the digits that keep keys apart which would meet otherwise.
_APART = 16


def dispatch_key(admit_seq: int, kappa: int, priority: int, *, express: bool = False) -> int:
    """Return the key workers claim by: priority inside a window of `kappa`, then admission order.

    No task is overtaken by one admitted more than `9 * kappa` admissions later, but by express
    work, of which every key lies below all others. The last digits keep keys apart that would meet
    otherwise.
    """
    return admit_seq * _APART + _at_priority_0(express=express) - priority * key_step(kappa)


def key_step(kappa: int) -> int:
    """Return by how much each priority lowers a key."""
    return kappa * _APART + 1


def _at_priority_0(*, express: bool) -> int:
    """Return what the key of priority 0 is above that of its place in the order of admission."""
    return PRIORITY_MAX - EXPRESS_SHIFT if express else PRIORITY_MAX


def planned(plan: Plan, cut: Cut) -> list[Wanted]:
    """Return the admissions of `plan` by flow, each flow's in the order of the plan."""
    flows: dict[tuple[str, str], list[int]] = {}
    picks = plan.picks
    for number, pick in enumerate(picks):
        flow = (pick.org, pick.workload)
        numbers = flows.get(flow)
        if numbers is None:
            flows[flow] = [number]
        else:
            numbers.append(number)
    return [_wanted(plan, numbers, cut) for numbers in flows.values()]


def _wanted(plan: Plan, numbers: Sequence[int], cut: Cut) -> Wanted:
    picks = plan.picks
    # What is charged, and whether the flow is express, does not change inside a plan; the picks of
    # the reserve come last in it.
    pick = picks[numbers[0]]
    mains = len(numbers)
    while mains and picks[numbers[mains - 1]].reserved:
        mains -= 1
    first = (plan.admit_seq + 1) * _APART + _at_priority_0(express=pick.express)
    return Wanted(
        pick.org,
        pick.workload,
        cut.cursors.get((pick.org, pick.workload), CURSOR_START),
        pick.charged_us,
        pick.weight,
        pick.share,
        main=mains,
        bases=[first + number * _APART for number in numbers],
    )
