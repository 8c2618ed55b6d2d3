"""The admission policy, pure: no clock, no SQL, no log.

The same objects decide in the leader, in `explain`, in the simulator and in the property tests.
"""

from orchestrator.fairness.costs import TAG_LIMIT, charge_of
from orchestrator.fairness.scheduler import Pick, Plan, Scheduler, WeightedScheduler
from orchestrator.fairness.state import FlowState, OrgState
from orchestrator.fairness.strict import StrictScheduler

__all__ = [
    "TAG_LIMIT",
    "FlowState",
    "OrgState",
    "Pick",
    "Plan",
    "Scheduler",
    "StrictScheduler",
    "WeightedScheduler",
    "charge_of",
]
