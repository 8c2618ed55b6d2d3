"""What a simulation leaves behind, raw: which task was admitted and started when."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from orchestrator.fairness.measures import Lag
from orchestrator.fairness.simulation.observe import WindowOutcome
from orchestrator.fairness.simulation.policy import SimPolicy, Terms
from orchestrator.fairness.simulation.trace import Trace
from orchestrator.model import CostMode


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Run:
    """What happened, raw; `report` makes figures of it.

    `start_us` is by place in the trace, -1 for a task that no worker began. `order` holds places in
    the trace in the order of admission; a task that yielded, `yields` times in all, is in it again.
    `served_us` and `fair_us` are by place in `trace.orgs`: worker time obtained, and what weighted
    water-filling of the same worker time gives, window by window. `idle_us` is slot time that was
    free while an org was eligible. The run ended at `until_us`.
    """

    trace: Trace
    policy: SimPolicy
    until_us: int
    start_us: array[int]
    order: array[int]
    busy_us: int
    idle_us: int
    served_us: array[int]
    fair_us: array[float]
    peak: array[int]
    terms: tuple[Terms, ...]
    windows: tuple[WindowOutcome, ...]
    measured: CostMode
    tracked: tuple[str, ...]
    lag: Lag | None
    yields: int = 0
