"""What two policies admitted from the same feed, side by side: counts, worker time, dwell.

The change of dwell needs no task to be followed. By Little's law the time that the tasks of an org
spent waiting, all of them together, is the integral of its backlog over time. Both policies see the
same arrivals, so at any moment their backlogs differ by what one has admitted and the other not:

    total waiting (shadow) - total waiting (live) = integral of (admitted live - admitted shadow) dt

and divided by the admissions of the org that is the mean change of dwell of a task: above 0 a task
waits longer under the candidate. Source: Little, "A proof for the queuing formula L = lambda W",
1961; it holds for any order of service and any distribution.

Cost: O(admissions of the round) a round, O(orgs) a report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import nsmallest

# Orgs that a report names; the others are in the totals of their tiers.
ORGS_MAX = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """What an org, a tier or the whole queue got live and would have got under the candidate.

    `live` and `shadow` are admissions, the shares are parts of the expected worker time that was
    admitted; `dwell_change_s` is the mean of their tasks, above 0 where they would wait longer.
    """

    name: str
    tier: str
    orgs: int
    live: int
    shadow: int
    dwell_change_s: float
    live_share: float
    shadow_share: float


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """The comparison since the shadow began, `elapsed_s` ago.

    Of `live` admissions in `rounds` rounds the candidate would have given `moved` to another org in
    the same round; `later` of them it gave nobody (its own limits), and `earlier` is what it
    admitted when the live policy admitted nothing. Jain's index is the mean over those windows of
    the fairness signal in which both policies had at least two orgs to compare.
    """

    elapsed_s: float
    rounds: int
    moved: int
    earlier: int
    later: int
    windows: int
    jain_live: float | None
    jain_shadow: float | None
    total: Difference
    tiers: tuple[Difference, ...] = ()
    orgs: tuple[Difference, ...] = ()


@dataclass(slots=True)
class _Account:
    """One org, or the sum of several: admissions, worker time, and the integral of how far the live
    policy is ahead.
    """

    at_s: float
    live: int = 0
    shadow: int = 0
    live_us: int = 0
    shadow_us: int = 0
    area_s: float = 0.0
    # A task that either policy has admitted was there to wait under both.
    tasks: int = 0
    orgs: int = 1

    def advance(self, now_s: float) -> None:
        """Bring the integral up to `now_s`."""
        self.area_s += (self.live - self.shadow) * (now_s - self.at_s)
        self.at_s = now_s
        self.tasks = max(self.live, self.shadow)

    def add(self, other: _Account) -> None:
        """Add the numbers of another org."""
        self.live += other.live
        self.shadow += other.shadow
        self.live_us += other.live_us
        self.shadow_us += other.shadow_us
        self.area_s += other.area_s
        self.tasks += other.tasks
        self.orgs += other.orgs

    @property
    def change_s(self) -> float:
        """Return the mean change of dwell of its tasks."""
        return self.area_s / self.tasks if self.tasks else 0.0


class Comparison:
    """The accounts of all orgs since `now_s`."""

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        self._accounts: dict[str, _Account] = {}
        self._jains: list[float] = [0.0, 0.0]
        self._windows = 0
        self.rounds = 0
        self._moved = self._earlier = self._later = 0

    def note(
        self, live: Iterable[tuple[str, int]], shadow: Iterable[tuple[str, int]], now_s: float
    ) -> None:
        """Note one round: (org, expected worker time in microseconds) of each admission."""
        surplus: Counter[str] = Counter()
        for org, cost_us in live:
            account = self._account(org, now_s)
            account.live += 1
            account.live_us += cost_us
            surplus[org] -= 1
        for org, cost_us in shadow:
            account = self._account(org, now_s)
            account.shadow += 1
            account.shadow_us += cost_us
            surplus[org] += 1
        gained = sum(count for count in surplus.values() if count > 0)
        lost = -sum(count for count in surplus.values() if count < 0)
        self.rounds += 1
        self._moved += min(gained, lost)
        self._earlier += max(0, gained - lost)
        self._later += max(0, lost - gained)

    def compare_windows(self, live: float | None, shadow: float | None) -> None:
        """Note Jain's index of one window of either policy; None where none could be told."""
        if live is not None and shadow is not None:
            self._windows += 1
            self._jains[0] += live
            self._jains[1] += shadow

    def report(self, tiers: Mapping[str, str], now_s: float) -> ShadowReport:
        """Return the comparison as of `now_s`; `tiers` names the tier of each org."""
        total = _Account(now_s, orgs=0)
        sums: dict[str, _Account] = {}
        for org, account in self._accounts.items():
            account.advance(now_s)
            tier = tiers.get(org, "")
            if tier not in sums:
                sums[tier] = _Account(now_s, orgs=0)
            sums[tier].add(account)
        for account in sums.values():
            total.add(account)
        most = nsmallest(ORGS_MAX, self._accounts.items(), key=lambda item: -abs(item[1].change_s))
        means = [each / self._windows if self._windows else None for each in self._jains]
        return ShadowReport(
            elapsed_s=round(now_s - self._since_s, 3),
            rounds=self.rounds,
            moved=self._moved,
            earlier=self._earlier,
            later=self._later,
            windows=self._windows,
            jain_live=means[0],
            jain_shadow=means[1],
            total=_difference("", "", total, total),
            tiers=tuple(_difference(tier, tier, sums[tier], total) for tier in sorted(sums)),
            orgs=tuple(_difference(org, tiers.get(org, ""), each, total) for org, each in most),
        )

    def _account(self, org: str, now_s: float) -> _Account:
        account = self._accounts.get(org)
        if account is None:
            account = self._accounts[org] = _Account(now_s)
        account.advance(now_s)
        return account


def _difference(name: str, tier: str, account: _Account, total: _Account) -> Difference:
    return Difference(
        name,
        tier,
        account.orgs,
        account.live,
        account.shadow,
        round(account.change_s, 6),
        round(account.live_us / total.live_us, 6) if total.live_us else 0.0,
        round(account.shadow_us / total.shadow_us, 6) if total.shadow_us else 0.0,
    )
