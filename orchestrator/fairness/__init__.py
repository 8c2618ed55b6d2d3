"""The admission policy, pure: no clock, no SQL, no log.

The same objects decide in the leader, in `explain`, in the simulator and in the property tests.
"""

from orchestrator.fairness.costs import (
    COST_MAX_US,
    COUNT_COST_US,
    GUESS_US,
    TAG_LIMIT,
    TAG_MIN,
    charge_of,
    learn,
    overrun,
)
from orchestrator.fairness.plan import Pick, Plan, Refreshed, Settled, settled
from orchestrator.fairness.roster import WorkloadClass
from orchestrator.fairness.scheduler import Scheduler
from orchestrator.fairness.slots import Limits, Ready, Slots, free_slots, reserve_of
from orchestrator.fairness.state import FlowState, Lane, OrgState, Seat
from orchestrator.fairness.strict import StrictScheduler
from orchestrator.fairness.weighted import WeightedScheduler

__all__ = [
    "COST_MAX_US",
    "COUNT_COST_US",
    "GUESS_US",
    "TAG_LIMIT",
    "TAG_MIN",
    "FlowState",
    "Lane",
    "Limits",
    "OrgState",
    "Pick",
    "Plan",
    "Ready",
    "Refreshed",
    "Scheduler",
    "Seat",
    "Settled",
    "Slots",
    "StrictScheduler",
    "WeightedScheduler",
    "WorkloadClass",
    "charge_of",
    "free_slots",
    "learn",
    "overrun",
    "reserve_of",
    "settled",
]
