"""What fairness is measured by: percentiles, Jain's index, the worst lag between two orgs.

Functions over plain sequences. They know no scheduler, so the leader's live signal, the simulator
and the benchmarks measure with the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

# What a refreshed charge may exceed the cost by: the steps of refreshing are geometric.
_REFRESHED = 1.25


class Spread(NamedTuple):
    """Percentiles (nearest rank) of so many values; all 0 where there are none."""

    of: int = 0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    worst: float = 0.0


class Party(NamedTuple):
    """One org in a comparison: its service by weight meanwhile, and its part of the bound."""

    org: str
    service: float
    bound: float


class Lag(NamedTuple):
    """How far `ahead` got ahead of `behind`, by weight, and what is promised as the most."""

    ahead: str
    behind: str
    lag: float
    bound: float

    @property
    def ratio(self) -> float:
        """Return lag / bound: below 1 the promise holds."""
        return self.lag / self.bound


def percentile(ordered: Sequence[float], part: float) -> float:
    """Return the value below or at which `part` of the ascending `ordered` lies (nearest rank)."""
    if not ordered:
        return 0.0
    rank = -int(-part * len(ordered) // 1)  # rounded up
    return ordered[max(0, min(len(ordered), rank) - 1)]


def spread(values: Iterable[float], scale: float = 1.0) -> Spread:
    """Return the percentiles of `values`, each divided by `scale`."""
    ordered = sorted(values)
    if not ordered:
        return Spread()
    p50, p95, p99 = (percentile(ordered, part) / scale for part in (0.5, 0.95, 0.99))
    return Spread(len(ordered), p50, p95, p99, ordered[-1] / scale)


def jain(services: Sequence[float]) -> float | None:
    """Return Jain's index of services by weight: 1 = all equal, 1/n = one has it all.

    Pass worker time divided by weight, of orgs that all had work to run all the time; or worker
    time divided by what is due. None where fewer than two are compared or nobody got anything.
    Source: Jain, Chiu, Hawe 1984.
    """
    squares = sum(service * service for service in services)
    if len(services) < 2 or not squares:
        return None
    return sum(services) ** 2 / (len(services) * squares)


def time_bound(cost: float, unfinished: int, weight: float, beside: float = 0.0) -> float:
    """Return one org's part of the bound on the lag in time mode.

    `cost` is the largest cost of a task of any org, `unfinished` the most tasks that the org had
    admitted and unfinished at once; `beside` the most slots that all orgs held together, each
    counted by weight (one may have come into line where the most refunded org stands). The bound of
    two orgs is the sum of their parts: 1.25 c (2 D_f / w_f + 2 D_g / w_g + P), the promise on
    shares in docs/guarantees.md.
    """
    return _REFRESHED * cost * (2 * max(1, unfinished) / weight + beside / 2)


def count_bound(weight: float) -> float:
    """Return one org's part of the bound on the lag in count mode: one admission."""
    return 1 / weight


def worst_lag(parties: Sequence[Party]) -> Lag | None:
    """Return the pair with the largest lag / bound; None where fewer than two are compared.

    All parties must have been eligible during the whole time compared. O(orgs) a step and few
    steps, not O(orgs^2): the pair is the root of a fractional program (Dinkelbach 1967).
    """
    if len(parties) < 2:
        return None
    ratio, found = 0.0, None
    while True:
        ahead = max(parties, key=lambda p: p.service - ratio * p.bound)
        behind = min(parties, key=lambda p: p.service + ratio * p.bound)
        lag, bound = ahead.service - behind.service, ahead.bound + behind.bound
        if found is not None and (ahead is behind or lag <= ratio * bound * (1 + 1e-12)):
            return found
        if ahead is behind:
            return Lag(parties[0].org, parties[1].org, 0.0, parties[0].bound + parties[1].bound)
        found = Lag(ahead.org, behind.org, lag, bound)
        ratio = lag / bound
