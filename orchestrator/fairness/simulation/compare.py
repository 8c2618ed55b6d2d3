"""Simulated policies side by side: the figures that tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.fairness.measures import Lag, Spread, jain
from orchestrator.fairness.simulation.policy import SimPolicy
from orchestrator.fairness.simulation.report import OrgOutcome, Report


class Column(NamedTuple):
    """One policy and what came of it."""

    name: str
    policy: SimPolicy
    report: Report


class TierFigures(NamedTuple):
    """One tier of one column: `due` is the share that weights and demand give."""

    tier: str
    orgs: int
    dwell: Spread
    share: float
    due: float
    jain: float | None


def tiers_of(report: Report) -> list[TierFigures]:
    """Return the figures of each tier of a report, best rank first."""
    found = []
    for tier in report.tiers:
        members = [org for org in report.orgs if org.tier == tier.tier]
        parts = [org.worker_s / org.fair_s for org in members if org.fair_s > 0]
        found.append(
            TierFigures(
                tier.tier,
                tier.orgs,
                tier.dwell,
                sum(org.share for org in members),
                sum(org.fair_share for org in members),
                jain(parts),
            )
        )
    return found


def tier_names(columns: Sequence[Column]) -> list[str]:
    """Return the tiers that have an org in any column, best rank first."""
    ranks = {
        tier.tier: (column.policy.tiers[tier.tier].rank, tier.tier)
        for column in columns
        for tier in column.report.tiers
    }
    return sorted(ranks, key=lambda tier: ranks[tier])


def critical_dwell(outcome: Report | OrgOutcome) -> Spread:
    """Return how long the critical tasks of a report, or of one org, waited."""
    return outcome.critical.dwell if outcome.critical else Spread()


def worst_lag(report: Report) -> Lag | None:
    """Return the pair of orgs that came closest to their bound, or went beyond it."""
    lags = [lag for lag in (report.lag, report.window_lag) if lag is not None]
    return max(lags, key=lambda lag: lag.ratio, default=None)


def starved(column: Column) -> list[str]:
    """Return the orgs that had work and got no slot at all, though nobody had paused them."""
    terms_of = column.policy.terms_of
    return [org for org in column.report.starved if not terms_of(org).paused]


def top_orgs(columns: Sequence[Column], top: int) -> list[list[OrgOutcome]]:
    """Return the orgs of which the dwell changes most from the first column to any other, each with
    its outcome in every column; with one column, those that wait longest.
    """
    rows = [list(row) for row in zip(*(column.report.orgs for column in columns), strict=True)]

    def change(row: list[OrgOutcome]) -> tuple[float, float]:
        first, others = row[0].dwell, [each.dwell for each in row[1:]] or [Spread()]
        return (
            max(abs(other.p95 - first.p95) for other in others),
            max(abs(other.p50 - first.p50) for other in others),
        )

    return sorted(rows, key=change, reverse=True)[:top]
