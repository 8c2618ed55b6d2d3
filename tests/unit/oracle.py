"""A naive twin of the weighted scheduler: the protocol read out loud.

No heap, no journal, no bookkeeping of who is eligible: every question is asked of every org.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class NaiveFlow:
    """One workload of an org: its tag and its waiting tasks."""

    tag: int = 0
    backlog: int = 0


@dataclass
class NaiveOrg:
    """One org, in the letters of the protocol."""

    appeared: int
    w: int = 1
    b: int | None = None
    paused: bool = False
    tag: int = 0
    v: int = 0
    n: int = 0
    served: int = 0
    flows: dict[str, NaiveFlow] = field(default_factory=dict)

    @property
    def eligible(self) -> bool:
        """Tell whether it has backlog, is below its cap and is not paused."""
        below = self.b is None or self.n < self.b
        return below and not self.paused and any(f.backlog > 0 for f in self.flows.values())


class NaiveScheduler:
    """SSFQ in count mode, O(orgs) per question."""

    def __init__(self) -> None:
        self.v = 0
        self.served = 0
        self.orgs: dict[str, NaiveOrg] = {}
        self.classes: dict[str, tuple[int, int]] = {}

    @contextmanager
    def _change(self) -> Iterator[None]:
        orgs = {name for name, org in self.orgs.items() if org.eligible}
        flows = {(n, w) for n, o in self.orgs.items() for w, f in o.flows.items() if f.backlog > 0}
        yield
        for name, org in self.orgs.items():
            if org.eligible and name not in orgs:
                org.tag = max(org.tag, self.v)
            for workload, flow in org.flows.items():
                if flow.backlog > 0 and (name, workload) not in flows:
                    flow.tag = max(flow.tag, org.v)

    def _org(self, name: str) -> NaiveOrg:
        return self.orgs.setdefault(name, NaiveOrg(appeared=len(self.orgs)))

    def configure(self, name: str, weight: int, burst_max: int | None, paused: bool) -> None:
        """Set what operators decide of an org."""
        with self._change():
            org = self._org(name)
            org.w, org.b, org.paused = weight, burst_max, paused

    def set_workload(self, workload: str, share: int, rank: int) -> None:
        """Set the share and the rank of a workload."""
        self.classes[workload] = (share, rank)

    def set_backlog(self, name: str, workload: str, count: int) -> None:
        """Set how many tasks of a flow wait."""
        with self._change():
            self._org(name).flows.setdefault(workload, NaiveFlow()).backlog = count

    def set_in_flight(self, name: str, count: int) -> None:
        """Set how many tasks of an org are admitted and unfinished."""
        with self._change():
            self._org(name).n = count

    def plan(self, slots: int) -> list[tuple[str, str, int]]:
        """Give up to `slots` slots away: (org, workload, charge) in order."""
        picks: list[tuple[str, str, int]] = []
        while len(picks) < slots and any(org.eligible for org in self.orgs.values()):
            name, org = min(
                ((name, org) for name, org in self.orgs.items() if org.eligible),
                key=lambda item: (item[1].tag, item[1].n > 0, item[1].served, item[1].appeared),
            )
            workload, flow = min(
                ((w, f) for w, f in org.flows.items() if f.backlog > 0),
                key=lambda item: (item[1].tag, self.classes[item[0]][1], item[0]),
            )
            self.v, org.v = max(self.v, org.tag), max(org.v, flow.tag)
            charge = 1_000_000 * 1024 // org.w
            org.tag += charge
            flow.tag += 1_000_000 * 1024 // self.classes[workload][0]
            self.served += 1
            org.served, org.n, flow.backlog = self.served, org.n + 1, flow.backlog - 1
            picks.append((name, workload, charge))
        return picks

    def trial(self, slots: int) -> list[tuple[str, str, int]]:
        """Return what `plan` would pick, and stay as it is."""
        return copy.deepcopy(self).plan(slots)
