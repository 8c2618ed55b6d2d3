"""The figure: dwell of each org over time, fair admission beside plain FIFO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.demo.scenario import Part
from orchestrator.store.report import Lifecycle

# One point for each stretch of time and org: the 95th percentile of what arrived in it.
_POINTS = 40
_QUANTILE = 0.95
# On a logarithmic axis nothing may be zero.
_FLOOR_S = 0.001
_COLOURS = ("#1b7f5c", "#2667c9", "#b3661a", "#c0392b")


def draw(
    path: Path, parts: Sequence[Part], fair: Sequence[Lifecycle], fifo: Sequence[Lifecycle]
) -> None:
    """Write an SVG of dwell (95th percentile, log seconds) over the time of arrival."""
    import pygal
    from pygal.style import Style

    colours = tuple(colour for colour in _COLOURS[: len(parts)] for _ in (0, 1))
    chart = pygal.XY(
        title="Dwell of each org: fair admission (solid) beside plain FIFO (dashed)",
        x_title="time of arrival, s",
        y_title="dwell p95, s",
        logarithmic=True,
        style=Style(colors=colours, background="white", plot_background="white"),
        js=[],
        width=1000,
        height=520,
        dots_size=1.5,
        legend_at_bottom=True,
        legend_at_bottom_columns=4,
        show_x_guides=False,
    )
    start = min((task.enqueued_at for task in fair), default=0.0)
    span = max((task.enqueued_at - start for task in fair), default=1.0) or 1.0
    for part in parts:
        for name, tasks in (("fair", fair), ("FIFO", fifo)):
            points = _curve([t for t in tasks if t.org == part.org], start, span)
            dashes = {"dasharray": "6, 4"} if name == "FIFO" else {}
            chart.add(f"{part.org} {name}", points, stroke_style={"width": 2} | dashes)
    path.write_bytes(chart.render())


def _curve(tasks: Sequence[Lifecycle], start: float, span: float) -> list[tuple[float, float]]:
    stretches: dict[int, list[float]] = {}
    for task in tasks:
        at = int((task.enqueued_at - start) / span * _POINTS)
        stretches.setdefault(at, []).append(task.started_at - task.enqueued_at)
    return [
        (round(at * span / _POINTS, 2), max(_FLOOR_S, quantile(dwells, _QUANTILE)))
        for at, dwells in sorted(stretches.items())
    ]


def quantile(values: Sequence[float], q: float) -> float:
    """Return the nearest-rank `q` quantile of non-empty `values`."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]
