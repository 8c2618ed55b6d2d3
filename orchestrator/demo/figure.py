"""The figure: dwell of each org over time, fair admission beside plain FIFO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from orchestrator.demo.scenario import Part
from orchestrator.store.report import Lifecycle

# One point for each stretch of time and org: the 95th percentile of what happened in it.
_POINTS = 40
_QUANTILE = 0.95
# Dwell is drawn on a logarithmic axis, where nothing may be zero.
_FLOOR_S = 0.001
_TICKS = {0.001: "1 ms", 0.01: "10 ms", 0.1: "0.1 s", 1.0: "1 s", 10.0: "10 s", 100.0: "100 s"}
_COLOURS = ("#1b7f5c", "#2667c9", "#b3661a", "#c0392b")


def draw(
    path: Path, parts: Sequence[Part], fair: Sequence[Lifecycle], fifo: Sequence[Lifecycle]
) -> None:
    """Write an SVG of dwell (95th percentile) over time.

    A trickling org is drawn over the time of arrival: what a task that came then had to wait. The
    flood arrives at once, so it is drawn over the time at which its tasks started.
    """
    import pygal
    from pygal.style import Style

    colours = tuple(colour for colour in _COLOURS[: len(parts)] for _ in (0, 1))
    chart = pygal.XY(
        title="How long tasks wait: fair admission (solid) beside plain FIFO (dashed)",
        x_title="seconds since the flood (arrival; for the flood itself: start)",
        y_title="dwell, 95th percentile",
        style=Style(colors=colours, background="white", plot_background="white", opacity="1"),
        js=[],
        width=1000,
        height=560,
        dots_size=1.5,
        legend_at_bottom=True,
        legend_at_bottom_columns=2,
        show_x_guides=False,
        x_value_formatter=lambda x: f"{x:.0f}",
    )
    chart.y_labels = [
        {"label": label, "value": math.log10(seconds)} for seconds, label in _TICKS.items()
    ]
    start = min((task.enqueued_at for task in fair), default=0.0)
    for part in parts:
        for name, tasks in (("fair", fair), ("FIFO", fifo)):
            mine = [task for task in tasks if task.org == part.org]
            dashes = {"dasharray": "6, 4"} if name == "FIFO" else {}
            chart.add(
                f"{part.org} ({part.tier}), {name}",
                _curve(mine, start, by_start=part.flood > 0),
                stroke_style={"width": 3} | dashes,
            )
    path.write_bytes(chart.render())


def _curve(
    tasks: Sequence[Lifecycle], start: float, *, by_start: bool
) -> list[tuple[float, float]]:
    """Return (seconds, log10 of the dwell) for each stretch of time in which there was a task."""
    at = [(task.started_at if by_start else task.enqueued_at) - start for task in tasks]
    width = max(at, default=0.0) / _POINTS or 1.0
    stretches: dict[int, list[float]] = {}
    for second, task in zip(at, tasks, strict=True):
        dwell = task.started_at - task.enqueued_at
        stretches.setdefault(int(second / width), []).append(dwell)
    return [
        (round(number * width, 2), math.log10(max(_FLOOR_S, quantile(dwells, _QUANTILE))))
        for number, dwells in sorted(stretches.items())
    ]


def quantile(values: Sequence[float], q: float) -> float:
    """Return the nearest-rank `q` quantile of non-empty `values`."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]
