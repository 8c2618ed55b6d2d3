"""The configuration as the leader holds it: read again, by differences, whenever its version moves.

The version is read after the fence; whoever changes configuration takes the fence at commit. So
what
is held here is in force at every admission.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from orchestrator.leader.cut import Cut, set_workloads
from orchestrator.model import DEFAULT_TIER, OrgConfig, Tier
from orchestrator.store import leadership, orgs
from orchestrator.store.admission import Probe
from orchestrator.store.orgs import ConfigVersion
from orchestrator.store.sql import run

# Should even the default tier be gone, an org without one is admitted as this.
_LAST_RESORT = Tier(DEFAULT_TIER, weight=1, rank=10_000, burst_max=None)
# An org of which nothing was decided.
_UNCONFIGURED = (DEFAULT_TIER, None, None, False)


class Configuration:
    """Tiers, workloads, the queue and the configured orgs, applied to the scheduler of a cut."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._tiers: dict[str, Tier] = {}
        self._orgs: dict[str, tuple[str, int | None, int | None, bool]] = {}
        # Nothing is in force before the first reload, under the fence of the term.
        self._version = ConfigVersion(-1, -1, "1:1:")

    @property
    def version(self) -> int:
        """Return the version that is in force here."""
        return self._version.version

    @property
    def in_force(self) -> tuple[int, int]:
        """Return the version, and how often any of it was deleted."""
        return self._version[:2]

    def differs(self, probe: Probe) -> bool:
        """Tell whether a change was committed since the last read."""
        return (probe.config_version, probe.config_deletes) != self.in_force

    def reload(self, connection: Connection[Any], probe: Probe) -> None:
        """Apply what changed, all of it where rows were deleted; `wake` of the scheduler acts on
        it.
        """
        self._cut.adopt(run(connection, leadership.queue(self._cut.queue.id)))
        tiers_before = self._tiers
        self._load_classes(connection)
        if probe.config_deletes != self._version.deletes:
            self._version = run(connection, orgs.config_version())
            self._load(connection)
            return
        snapshot, changed = run(connection, orgs.orgs_changed(self._version.snapshot))
        self._version = ConfigVersion(probe.config_version, probe.config_deletes, snapshot)
        for row in changed:
            self._orgs[row.org] = (row.tier, row.weight, row.burst_max, row.paused)
        touched = {row.org for row in changed}
        tiers_differ = tiers_before != self._tiers
        for name in self._cut.scheduler.orgs:
            if tiers_differ or name in touched:
                self._apply(name)
        self._raise_kappa()

    def introduce(self, org: str) -> None:
        """Give an org that is seen for the first time its tier, weight and cap."""
        if org not in self._cut.scheduler.orgs:
            self._apply(org)

    def _load(self, connection: Connection[Any]) -> None:
        self._load_classes(connection)
        configs: list[OrgConfig] = run(connection, orgs.all_orgs())
        self._orgs = {
            config.org: (config.tier, config.weight, config.burst_max, config.paused_at is not None)
            for config in configs
        }
        for name in self._cut.scheduler.orgs:
            self._apply(name)
        self._raise_kappa()

    def _load_classes(self, connection: Connection[Any]) -> None:
        self._tiers = {tier.name: tier for tier in run(connection, orgs.tiers())}
        set_workloads(self._cut.scheduler, run(connection, orgs.workloads()))

    def _apply(self, org: str) -> None:
        name, weight, burst_max, paused = self._orgs.get(org, _UNCONFIGURED)
        tier = self._tiers.get(name) or self._tiers.get(DEFAULT_TIER, _LAST_RESORT)
        self._cut.scheduler.configure(
            org,
            weight=tier.weight if weight is None else weight,
            rank=tier.rank,
            burst_max=tier.burst_max if burst_max is None else burst_max,
            paused=paused,
        )

    def _raise_kappa(self) -> None:
        """Put the queue's kappa in force; a raise jumps ahead, or keys would meet for ever."""
        row, wanted = self._cut.row, self._cut.queue.kappa
        if wanted > row.kappa:
            self._cut.scheduler.admit_seq += 10 * (wanted - row.kappa)
        row.kappa = wanted
