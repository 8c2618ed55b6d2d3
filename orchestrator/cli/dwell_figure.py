"""The figure of `simulate`: how long tasks wait under each policy, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.chart import COLOURS, LIGHT_COLOURS, height, label_waiting, look
from orchestrator.errors import InvalidInput
from orchestrator.fairness.measures import Spread
from orchestrator.fairness.simulation.compare import (
    Column,
    critical_dwell,
    tier_names,
    top_orgs,
)

# Without orgs there would be nothing to draw where there is one tier.
_ORGS_MIN = 1


def draw(path: Path, columns: Sequence[Column], top: int) -> None:
    """Write an SVG: dwell p50 (light) and p95 (dark) of each tier, a pair of bars for each policy.

    Where all orgs are of one tier, each of the `top` orgs instead. Critical tasks, where there are
    any, stand beside them.
    """
    import pygal

    groups = _groups(columns, max(_ORGS_MIN, top))
    used = [colour for pair in zip(LIGHT_COLOURS, COLOURS, strict=True) for colour in pair]
    pairs = -(-2 * len(columns) // len(used))
    chart = pygal.Bar(
        title="How long tasks wait, from arrival to start",
        y_title="dwell",
        show_x_guides=False,
        **look(tuple(used * pairs)),
    )
    chart.x_labels = [name for name, _ in groups]
    label_waiting(chart, max((spread.p95 for _, row in groups for spread in row), default=0.0))
    for number, column in enumerate(columns):
        for part in ("p50", "p95"):
            seconds = [getattr(row[number], part) for _, row in groups]
            bars = [{"value": height(s), "label": f"{s:.3g} s"} for s in seconds]
            chart.add(f"{column.name}, {part}", bars)
    try:
        path.write_bytes(chart.render())
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from error


def _groups(columns: Sequence[Column], top: int) -> list[tuple[str, list[Spread]]]:
    """Return what stands side by side: a name, and the dwell of each column."""
    tiers = [{tier.tier: tier.dwell for tier in column.report.tiers} for column in columns]
    names = tier_names(columns)
    if len(names) > 1:
        groups = [(name, [found.get(name, Spread()) for found in tiers]) for name in names]
    else:
        groups = [(row[0].org, [each.dwell for each in row]) for row in top_orgs(columns, top)]
    reports = [column.report for column in columns]
    if any(report.critical for report in reports):
        groups.append(("critical tasks", [critical_dwell(report) for report in reports]))
    return groups
