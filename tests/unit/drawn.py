"""Strategies: worlds and histories, drawn."""

from __future__ import annotations

from hypothesis import strategies as st

from orchestrator.fairness import WorkloadClass
from orchestrator.model import CostMode
from tests.unit.histories import (
    COSTS_US,
    EXACT_WEIGHTS,
    ORGS,
    WORKLOADS,
    Arrive,
    Cap,
    Correct,
    Event,
    OrgConfig,
    Pause,
    Refresh,
    Settle,
    Tick,
    Trial,
    Weigh,
    World,
)


def orgs() -> st.SearchStrategy[str]:
    """Draw one org."""
    return st.sampled_from(ORGS)


def workloads() -> st.SearchStrategy[str]:
    """Draw one workload."""
    return st.sampled_from(WORKLOADS)


def weights() -> st.SearchStrategy[int]:
    """Draw a weight whose charge has no rounding."""
    return st.sampled_from(EXACT_WEIGHTS)


def caps() -> st.SearchStrategy[int | None]:
    """Draw a `burst_max`."""
    return st.none() | st.integers(1, 4)


def arrivals() -> st.SearchStrategy[Event]:
    """Draw tasks that are staged."""
    return st.builds(Arrive, orgs(), workloads(), st.integers(1, 12))


def ticks() -> st.SearchStrategy[Event]:
    """Draw slots given away."""
    return st.builds(Tick, st.integers(1, 12), st.sampled_from((0, 0, 1, 3)))


def demand() -> st.SearchStrategy[Event]:
    """Draw what producers, workers and the leader do: mostly, the common."""
    settle = st.builds(Settle, st.integers(1, 12), st.integers(1, 3), st.sampled_from(COSTS_US))
    refresh = st.builds(Refresh, st.integers(1, 3), st.sampled_from((90, 100, 124, 300)))
    correct = st.builds(Correct, orgs(), workloads(), st.integers(0, 3))
    trial = st.builds(Trial, st.integers(1, 8), st.integers(0, 2))
    common = (arrivals(), ticks(), settle)
    return st.one_of(*common, *common, refresh, correct, trial)


def decisions() -> st.SearchStrategy[Event]:
    """Draw what operators do, weights aside."""
    return st.builds(Pause, orgs(), st.booleans()) | st.builds(Cap, orgs(), caps())


@st.composite
def histories(draw: st.DrawFn, *, reweigh: bool = True) -> list[Event]:
    """Draw a history that opens with a backlog; weights change in it only if `reweigh`."""
    events = demand() | decisions()
    if reweigh:
        events = events | st.builds(Weigh, orgs(), weights())
    # A list is about twice its least size long; what is not needed shrinks to None.
    drawn = [
        *draw(st.lists(st.none() | arrivals(), min_size=5, max_size=10)),
        *draw(st.lists(st.none() | events, min_size=15, max_size=60)),
    ]
    return [event for event in drawn if event is not None]


@st.composite
def worlds(draw: st.DrawFn, mode: CostMode | None = None, *, headroom: bool = False) -> World:
    """Draw orgs and workloads as configured, before anything happened.

    One workload is express, up to a second; `mode` is drawn where it is not given.
    """
    return World(
        config={org: OrgConfig(draw(weights()), draw(caps())) for org in ORGS},
        workloads={
            workload: WorkloadClass(draw(weights()), rank, workload == "api", 1_000_000)
            for rank, workload in enumerate(WORKLOADS)
        },
        cost_mode=mode or draw(st.sampled_from(CostMode)),
        capacity=draw(st.integers(2, 12)) if headroom else None,
        headroom=draw(st.sampled_from((0.3, 0.5, 1.0, 2.0))) if headroom else None,
    )
