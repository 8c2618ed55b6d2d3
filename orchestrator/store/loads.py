"""What each org of a queue holds, what it waits for, and on which terms.

Read-only. Nothing here costs O(backlog): flows are walked by a loose index scan, and their tasks
are counted up to a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.fairness.shares import fair_shares
from orchestrator.store.names import MAIN_MIN, express_floor_sequence, floor_sequence
from orchestrator.store.sql import Operation, Row, Statements

SQL = Statements("loads")

# An org is quiet while it has fewer staged tasks than this: what its tasks wait for is not its own
# backlog, so their age tells how fair the queue is.
QUIET_BELOW = 100


@dataclass(frozen=True, slots=True)
class OrgLoad:
    """One org of one queue: what it holds, what it waits for, and on which terms."""

    org: str
    tier: str | None
    weight: int
    burst_max: int | None
    paused: bool
    ready: int
    claimed: int
    staged: int
    staged_exact: bool
    oldest_staged: int | None
    oldest_ready: int | None
    share: float = 0.0
    fair_share: float = 0.0

    @property
    def in_flight(self) -> int:
        """Return how many slots the org holds."""
        return self.ready + self.claimed

    @property
    def is_quiet(self) -> bool:
        """Tell whether the org's own backlog is too small to be what its tasks wait for."""
        return self.staged < QUIET_BELOW


@dataclass(slots=True)
class _Staged:
    tasks: int = 0
    exact: bool = True
    oldest: int | None = None


@dataclass(slots=True)
class _Raw:
    """An org's numbers while they are gathered."""

    staged: _Staged = field(default_factory=_Staged)
    ready: int = 0
    claimed: int = 0
    oldest_ready: int | None = None

    @property
    def in_flight(self) -> int:
        return self.ready + self.claimed


def org_loads(queue: int, slots_max: int | None = None) -> Operation:
    """Return an `OrgLoad` for every org with staged or admitted work, most slots first.

    Slots are counted by row up to `slots_max`; past that as the leader counted a
    moment ago.
    """
    gathered: dict[str, _Raw] = {}
    for org, _, oldest, tasks, exact in (
        yield SQL.call("staged_flows", queue=queue, most=QUIET_BELOW)
    ):
        staged = gathered.setdefault(org, _Raw()).staged
        staged.tasks += tasks
        staged.exact = staged.exact and exact
        staged.oldest = oldest if staged.oldest is None else min(staged.oldest, oldest)
    for org, ready, claimed, oldest_ready in (yield from _slots(queue, slots_max)):
        raw = gathered.setdefault(org, _Raw())
        raw.ready, raw.claimed, raw.oldest_ready = ready, claimed, oldest_ready
    terms = yield SQL.call("terms", orgs=list(gathered))
    due = _fair_shares(gathered, terms)
    slots = sum(raw.in_flight for raw in gathered.values())
    loads = []
    for org, tier, weight, burst_max, paused in terms:
        raw = gathered[org]
        loads.append(
            OrgLoad(
                org=org,
                tier=tier,
                weight=weight,
                burst_max=burst_max,
                paused=paused,
                ready=raw.ready,
                claimed=raw.claimed,
                staged=raw.staged.tasks,
                staged_exact=raw.staged.exact,
                oldest_staged=raw.staged.oldest,
                oldest_ready=raw.oldest_ready,
                share=raw.in_flight / slots if slots else 0.0,
                fair_share=due[org] / slots if slots else 0.0,
            )
        )
    return sorted(loads, key=lambda load: (-load.in_flight, -load.staged, load.org))


def _slots(queue: int, most: int | None) -> Operation:
    """Return (org, ready, claimed, oldest ready task) of every org that holds a slot."""
    rows = yield SQL.call("slots", queue=queue, most=None if most is None else most + 1)
    if most is None or sum(row[1] + row[2] for row in rows) <= most:
        return rows
    return (
        yield SQL.call(
            "slots_as_of_tick",
            queue=queue,
            floor=floor_sequence(queue),
            express_floor=express_floor_sequence(queue),
            main_min=MAIN_MIN,
            most=most,
        )
    )


def _fair_shares(gathered: Mapping[str, _Raw], terms: Sequence[Row]) -> Mapping[str, float]:
    """Return how many of the slots in use each org is due, by weight and by what it can use."""
    demands, weights = {}, {}
    for org, _, weight, burst_max, paused in terms:
        raw = gathered[org]
        wanted = raw.in_flight + (0 if paused else raw.staged.tasks)
        demands[org] = wanted if burst_max is None else min(wanted, max(burst_max, raw.in_flight))
        weights[org] = weight
    return fair_shares(sum(raw.in_flight for raw in gathered.values()), demands, weights)
