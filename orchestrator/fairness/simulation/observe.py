"""What a simulation is judged by while it runs: windows of time, and the lag between orgs.

The simulator reports each event; nothing here acts back on it. An org is *eligible* while it has
staged work, is below `burst_max` and is not paused; it is compared with others only over time in
which both were eligible throughout.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.fairness.measures import Lag, Party, count_bound, jain, time_bound, worst_lag
from orchestrator.fairness.shares import fair_shares
from orchestrator.fairness.simulation.drift import Drifts
from orchestrator.fairness.simulation.policy import Terms
from orchestrator.model import CostMode


class WindowOutcome(NamedTuple):
    """One window of a run. `orgs` were eligible during all of it: the set `jain` is over.

    `lag` is the worst pair of them, over this window alone, against the bound from the largest
    task and the most unfinished tasks seen so far.
    """

    from_us: int
    until_us: int
    orgs: tuple[str, ...]
    jain: float | None
    lag: Lag | None


class Observer:
    """Counts per org, closed window by window; orgs are named by their place in `names`."""

    def __init__(
        self, names: Sequence[str], *, window_us: int, tracked: Sequence[int], mode: CostMode
    ) -> None:
        count = len(names)
        self.names = names
        self.windows: list[WindowOutcome] = []
        self.served_us = array("q", bytes(8 * count))
        self.fair_us = array("d", bytes(8 * count))
        self.peak = array("i", bytes(4 * count))
        self.cost_us = 0
        self._window_us = window_us
        self._mode = mode
        self._from_us = 0
        self.until_us = window_us
        self._terms: list[Terms | None] = [None] * count
        self._waiting = array("q", bytes(8 * count))
        self._held = array("i", bytes(4 * count))
        self._work_us = array("q", bytes(8 * count))
        self._capped = bytearray(count)
        self._eligible = bytearray(count)
        self._since_us = array("q", bytes(8 * count))
        self._served: dict[int, int] = {}
        self._admitted: dict[int, int] = {}
        self._backlogged: set[int] = set()
        self._running: dict[int, tuple[int, int, bool]] = {}
        self._reserved: dict[int, int] = {}
        self._tracked = {org: party for party, org in enumerate(tracked)}
        self.drifts = Drifts([1.0] * len(tracked))

    # Events -------------------------------------------------------------------------------------

    def configure(self, org: int, terms: Terms, now: int) -> None:
        """Note what is in force for `org` from `now` on; comparisons begin anew."""
        self._terms[org] = terms
        self._capped[org] = terms.burst_max is not None
        if self._eligible[org]:
            self._set_eligible(org, False, now)
        if org in self._tracked:
            self.drifts.reweigh(self._tracked[org], terms.weight, now)
        self._judge(org, now)

    def arrive(self, org: int, tasks: int, work_us: int, now: int) -> None:
        """Note staged tasks that the leader has seen."""
        self._waiting[org] += tasks
        self._work_us[org] += work_us
        self._backlogged.add(org)
        if not self._eligible[org]:
            self._judge(org, now)

    def admit(self, org: int, now: int, *, reserved: bool) -> None:
        """Note one admission; those to the reserve are another lane's, and no lag is in them."""
        self._waiting[org] -= 1
        self._held[org] += 1
        if self._held[org] > self.peak[org]:
            self.peak[org] = self._held[org]
        if self._mode is CostMode.COUNT and not reserved:
            self._admitted[org] = self._admitted.get(org, 0) + 1
            if org in self._tracked:
                self.drifts.serve(self._tracked[org], 1, now)
        if not self._waiting[org] or self._capped[org]:
            self._judge(org, now)

    def start(self, task: int, org: int, work_us: int, now: int, *, reserved: bool) -> None:
        """Note that a worker began `task`."""
        self._running[task] = (org, now, reserved)
        self._work_us[org] -= work_us
        if work_us > self.cost_us:
            self.cost_us = work_us
        if self._mode is CostMode.TIME and not reserved and org in self._tracked:
            self.drifts.run(self._tracked[org], 1, now)

    def end(self, task: int, now: int) -> None:
        """Note that a worker ended `task`."""
        org, since, reserved = self._running.pop(task)
        self._serve(org, now - max(since, self._from_us), reserved=reserved)
        if self._mode is CostMode.TIME and not reserved and org in self._tracked:
            self.drifts.run(self._tracked[org], -1, now)

    def settle(self, org: int, now: int) -> None:
        """Note that the leader learned of an end: a slot of `org` is free."""
        self._held[org] -= 1
        if not self._eligible[org] and self._waiting[org]:
            self._judge(org, now)

    def _judge(self, org: int, now: int) -> None:
        terms = self._terms[org]
        eligible = (
            terms is not None
            and self._waiting[org] > 0
            and not terms.paused
            and (terms.burst_max is None or self._held[org] < terms.burst_max)
        )
        if eligible != self._eligible[org]:
            self._set_eligible(org, eligible, now)

    def _set_eligible(self, org: int, eligible: bool, now: int) -> None:
        self._eligible[org] = eligible
        self._since_us[org] = now
        party = self._tracked.get(org)
        if party is not None:
            if eligible:
                self.drifts.enter(party, now)
            else:
                self.drifts.leave(party, now)

    # Windows ------------------------------------------------------------------------------------

    def advance(self, now: int) -> None:
        """Close the windows that end at `now` or before."""
        while self.until_us <= now:
            self._close(self.until_us)

    def finish(self, now: int) -> None:
        """Close the last window early, where the run ended inside it."""
        if now > self._from_us:
            self._close(now)

    def _close(self, until_us: int) -> None:
        self._share_running(until_us)
        self._give_due(until_us)
        joint = [
            org
            for org in self._backlogged
            if self._eligible[org] and self._since_us[org] <= self._from_us
        ]
        joint.sort()
        services = [self._served.get(org, 0) / self._weight(org) for org in joint]
        self.windows.append(
            WindowOutcome(
                self._from_us,
                until_us,
                tuple(self.names[org] for org in joint),
                jain(services),
                worst_lag([self._party(org) for org in joint]),
            )
        )
        self._backlogged = {org for org in self._backlogged if self._work_us[org] > 0}
        self._served, self._reserved, self._admitted = {}, {}, {}
        self._from_us, self.until_us = until_us, until_us + self._window_us

    def _share_running(self, until_us: int) -> None:
        for org, since, reserved in self._running.values():
            self._serve(org, until_us - max(since, self._from_us), reserved=reserved)

    def _serve(self, org: int, used_us: int, *, reserved: bool) -> None:
        self._served[org] = self._served.get(org, 0) + used_us
        if reserved:
            self._reserved[org] = self._reserved.get(org, 0) + used_us

    def _give_due(self, until_us: int) -> None:
        """Add what each org was due: worker time delivered, by weight, to those that wanted it."""
        for org, used in self._served.items():
            self.served_us[org] += used
        wanted = {
            org: self._wanted(org, until_us) for org in self._served.keys() | self._backlogged
        }
        capacity = sum(self._served.values())
        due = wanted
        if sum(wanted.values()) > capacity:
            weights = {org: terms.weight for org in wanted if (terms := self._terms[org])}
            due = fair_shares(capacity, wanted, weights)
        for org, time_us in due.items():
            self.fair_us[org] += time_us

    def _wanted(self, org: int, until_us: int) -> float:
        terms, served = self._terms[org], self._served.get(org, 0)
        if terms is None or terms.paused:
            return served
        wanted = served + self._work_us[org]
        if terms.burst_max is not None:
            wanted = min(wanted, terms.burst_max * (until_us - self._from_us))
        return wanted

    def _weight(self, org: int) -> int:
        terms = self._terms[org]
        return terms.weight if terms else 1

    def _party(self, org: int) -> Party:
        """Return what the main lane gave an org in this window."""
        name, weight = self.names[org], self._weight(org)
        if self._mode is CostMode.COUNT:
            return Party(name, self._admitted.get(org, 0) / weight, count_bound(weight))
        used_us = self._served.get(org, 0) - self._reserved.get(org, 0)
        return Party(name, used_us / weight, time_bound(self.cost_us, self.peak[org], weight))

    # The whole run ------------------------------------------------------------------------------

    def worst_lag(self, now: int) -> Lag | None:
        """Return the tracked pair with the worst lag / bound, over every joint interval."""
        orgs = list(self._tracked)
        worst: Lag | None = None
        for drift in self.drifts.worst(now):
            parts = [self._bound(orgs[party], party) for party in (drift.one, drift.other)]
            lag = Lag(
                self.names[orgs[drift.one]], self.names[orgs[drift.other]], drift.lag, sum(parts)
            )
            if worst is None or lag.ratio > worst.ratio:
                worst = lag
        return worst

    def _bound(self, org: int, party: int) -> float:
        weight = self.drifts.weights[party]
        if self._mode is CostMode.COUNT:
            return count_bound(weight)
        return time_bound(self.cost_us, self.peak[org], weight)
