"""Fairness as a signal: how far apart those that waited together were served, window by window.

Compared are the orgs that were eligible during the whole window, by what they were charged for
their weight in the main lane: at admission a guess, corrected when attempts end. An org that was at
its cap, paused or without work for a moment is not compared: what it got was not the policy's
decision alone.

Cost: O(orgs of the plan) a round, O(orgs) once a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from orchestrator.fairness.costs import COUNT_COST_US, SCALE
from orchestrator.fairness.measures import Party, count_bound, jain, time_bound, worst_lag
from orchestrator.fairness.plan import Plan, Refreshed, Settled, refreshed_by
from orchestrator.fairness.scheduler import Scheduler
from orchestrator.fairness.state import OrgState
from orchestrator.model import CostMode, FairnessReport

# A bound is made of tasks at least as long: what is apart by less is nothing to be alarmed at.
_NOTABLE_US = 10_000


@dataclass(slots=True)
class _Org:
    """What one org got in this window: virtual cost charged, and the most slots it held."""

    charged: int = 0
    peak: int = 0


class FairnessWindow:
    """One window of one queue; the owner says what happens, and closes it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._begin(scheduler)

    def _begin(self, scheduler: Scheduler) -> None:
        self._orgs: dict[str, _Org] = {}
        self._served: set[str] = set()
        self._largest_us = 0
        # The most slots that were held at once, and the smallest weight that held any.
        self._peak = scheduler.in_flight
        self._lightest: int | None = None
        self._idle_slot_s = 0.0
        self._from_seq = scheduler.admit_seq
        self._reweighted = False

    def reweigh(self) -> None:
        """Note that weights or caps changed: nothing is compared across that."""
        self._reweighted = True

    def admit(self, plan: Plan, in_flight: int) -> None:
        """Note a plan that was committed, and how many slots are held with it."""
        for saved in plan.saved.values():
            state, before = saved.state, saved.seats[0]
            org = self._org(state.org)
            org.charged += state.main.tag - before.tag
            org.peak = max(org.peak, state.in_flight)
            if self._lightest is None or state.weight < self._lightest:
                self._lightest = state.weight
            self._served.add(state.org)
        self._peak = max(self._peak, in_flight)
        for pick in plan.picks:
            if pick.charged_us > self._largest_us:
                self._largest_us = pick.charged_us

    def settle(self, ended: Settled, largest_us: int, cost_mode: CostMode) -> None:
        """Note attempts that ended, the longest of them after `largest_us`."""
        if cost_mode is CostMode.TIME and not ended.reserved:
            self._org(ended.org).charged += ended.tag_delta
        self._largest_us = max(self._largest_us, largest_us)

    def refresh(self, running: Refreshed) -> None:
        """Note an attempt that outgrew its charge."""
        if not running.reserved:
            self._org(running.org).charged += refreshed_by(running, running.weight)
        self._largest_us = max(self._largest_us, running.now_us)

    def idle(self, slot_s: float) -> None:
        """Note slots that were free for so many slot-seconds while an eligible org waited."""
        self._idle_slot_s += slot_s

    def close(self, scheduler: Scheduler, window_s: float) -> FairnessReport | None:
        """Return the report of the window and begin the next; None where nothing happened."""
        report = self._report(scheduler, window_s)
        quiet = not self._orgs and not scheduler.eligible
        self._begin(scheduler)
        return None if quiet else report

    def _report(self, scheduler: Scheduler, window_s: float) -> FairnessReport:
        counted = scheduler.cost_mode is CostMode.COUNT
        parties = [] if self._reweighted else list(self._parties(scheduler, counted))
        services = [party.service for party in parties]
        worst = worst_lag(parties)
        mean = fmean(services) if services else 0.0
        return FairnessReport(
            window_s=round(window_s, 3),
            compared=len(parties),
            jain=jain(services),
            lag=worst.lag if worst else 0.0,
            lag_bound=worst.bound if worst else 0.0,
            lag_unit="tasks" if counted else "s",
            ahead=worst.ahead if worst else None,
            behind=worst.behind if worst else None,
            starved=sum(p.service <= 0 and mean - p.service > p.bound for p in parties),
            idle_slot_s=round(self._idle_slot_s, 3),
            served=len(self._served),
        )

    def _parties(self, scheduler: Scheduler, counted: bool) -> Iterator[Party]:
        """Yield the orgs that were eligible all along, their service in seconds, or in tasks."""
        unit = SCALE * (COUNT_COST_US if counted else 1_000_000)
        for state in scheduler.orgs.values():
            if state.main.eligible and state.main.woken <= self._from_seq:
                org = self._orgs.get(state.org, _Org())
                yield Party(state.org, org.charged / unit, self._bound(state, org, counted))

    def _bound(self, state: OrgState, org: _Org, counted: bool) -> float:
        if counted:
            return count_bound(state.weight)
        largest_s = max(self._largest_us, _NOTABLE_US) / 1e6
        beside = self._peak / self._lightest if self._lightest else 0.0
        return time_bound(largest_s, max(org.peak, state.in_flight), state.weight, beside)

    def _org(self, name: str) -> _Org:
        org = self._orgs.get(name)
        if org is None:
            org = self._orgs[name] = _Org()
        return org
