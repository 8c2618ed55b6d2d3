"""What a plan asks of the database, flow by flow, and the keys by which workers will claim it."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.fairness import Pick, Plan
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
    return _base(admit_seq, express=express) - priority * key_step(kappa)


def key_step(kappa: int) -> int:
    """Return by how much each priority lowers a key."""
    return kappa * _APART + 1


def _base(admit_seq: int, *, express: bool) -> int:
    """Return the key of priority 0."""
    base = admit_seq * _APART + PRIORITY_MAX
    return base - EXPRESS_SHIFT if express else base


def planned(plan: Plan, cut: Cut) -> list[Wanted]:
    """Return the admissions of `plan` by flow, each flow's in the order of the plan."""
    flows: dict[tuple[str, str], list[tuple[int, Pick]]] = {}
    for admit_seq, pick in enumerate(plan.picks, plan.admit_seq + 1):
        flows.setdefault((pick.org, pick.workload), []).append((admit_seq, pick))
    return [_wanted(picked, cut.cursors.get(flow, CURSOR_START)) for flow, picked in flows.items()]


def _wanted(picked: Sequence[tuple[int, Pick]], cursor: tuple[int, int]) -> Wanted:
    # What is charged, and whether the flow is express, does not change inside a plan; the picks of
    # the reserve come last in it.
    pick = picked[0][1]
    return Wanted(
        pick.org,
        pick.workload,
        cursor,
        pick.charged_us,
        pick.weight,
        pick.share,
        main=sum(not each.reserved for _, each in picked),
        bases=[_base(admit_seq, express=pick.express) for admit_seq, _ in picked],
    )
