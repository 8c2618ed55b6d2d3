"""What a simulation is run with: the queue, its orgs and workloads, and what changes on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.errors import InvalidInput
from orchestrator.fairness.roster import WorkloadClass
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.model import BURST_MAX_MIN, DEFAULT_TIER, WEIGHT_MAX, WEIGHT_MIN, Tier

# A task that was stopped has run for so long: else one could be stopped for ever.
YIELD_US_MIN = 1_000
_STANDARD = Tier(DEFAULT_TIER, weight=1, rank=0, burst_max=None)


class OrgSetting(NamedTuple):
    """What operators decide of one org; None is what its tier says."""

    tier: str = DEFAULT_TIER
    weight: int | None = None
    burst_max: int | None = None
    paused: bool = False


class Terms(NamedTuple):
    """What is in force for one org, tier and override taken together."""

    tier: str
    weight: int
    rank: int
    burst_max: int | None
    paused: bool


class Change(NamedTuple):
    """From `at_us` on, `setting` is all that is decided of `org`."""

    at_us: int
    org: str
    setting: OrgSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class SimPolicy:
    """One queue and its workers.

    `slots` is how many tasks the workers run at once. `window` is how many admitted, unclaimed
    tasks the leader keeps in front of them; 0 admits straight into a free slot. `tick_us` is the
    time between two rounds of the leader; 0 is a round at every event. `capacity`,
    `express_reserve` and `headroom` are those of the queue. `check_us` is how often tasks that run
    longer than they were charged for are looked at. `yield_us` is how soon a running task gives its
    slot to a critical one of its org, once it is asked to; with None nobody looks, and none does.
    Orgs that `orgs` does not name have the default setting; workloads that `workloads` does not
    name one share.
    """

    rule: Rule = Rule.WEIGHTED
    slots: int = 16
    capacity: int | None = None
    express_reserve: int | None = None
    headroom: float | None = None
    window: int = 0
    kappa: int = 100
    tick_us: int = 0
    check_us: int = 500_000
    yield_us: int | None = None
    tiers: Mapping[str, Tier] = field(default_factory=lambda: {DEFAULT_TIER: _STANDARD})
    orgs: Mapping[str, OrgSetting] = field(default_factory=dict)
    workloads: Mapping[str, WorkloadClass] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        self._check("slots", self.slots, 1)
        self._check("capacity", self.capacity, 1)
        self._check("express_reserve", self.express_reserve, 0)
        self._check("window", self.window, 0)
        self._check("kappa", self.kappa, 0)
        self._check("tick_us", self.tick_us, 0)
        self._check("check_us", self.check_us, 1)
        self._check("yield_us", self.yield_us, YIELD_US_MIN)
        if self.headroom is not None and self.headroom <= 0:
            raise InvalidInput(f"headroom must be above 0, not {self.headroom}")
        if self.headroom is not None and self.capacity is None:
            raise InvalidInput("headroom is a part of the free capacity: set capacity too")
        for org, setting in self.orgs.items():
            self._check_setting(org, setting)
        for change in self.changes:
            self._check_setting(change.org, change.setting)

    def terms(self, setting: OrgSetting) -> Terms:
        """Return what `setting` comes to."""
        tier = self.tiers[setting.tier]
        return Terms(
            tier.name,
            tier.weight if setting.weight is None else setting.weight,
            tier.rank,
            tier.burst_max if setting.burst_max is None else setting.burst_max,
            setting.paused,
        )

    def terms_of(self, org: str) -> Terms:
        """Return what is in force for `org` at the start."""
        return self.terms(self.orgs.get(org, OrgSetting()))

    def _check(self, name: str, value: int | None, least: int) -> None:
        if value is not None and value < least:
            raise InvalidInput(f"{name} must be at least {least}, not {value}")

    def _check_setting(self, org: str, setting: OrgSetting) -> None:
        if setting.tier not in self.tiers:
            raise InvalidInput(
                f"org {org!r} has the unknown tier {setting.tier!r}: add it to tiers"
            )
        self._check("burst_max", setting.burst_max, BURST_MAX_MIN)
        if setting.weight is not None and not WEIGHT_MIN <= setting.weight <= WEIGHT_MAX:
            raise InvalidInput(f"weight of {org!r} must be {WEIGHT_MIN} to {WEIGHT_MAX}")
