"""The figure: dwell of each org over time, fair admission beside plain FIFO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.chart import COLOURS, height, label_waiting, look
from orchestrator.demo.scenario import Part
from orchestrator.store.report import Lifecycle

# One point for each stretch of time and org: the 95th percentile of what happened in it.
_POINTS = 40
_QUANTILE = 0.95


def draw(
    path: Path, parts: Sequence[Part], fair: Sequence[Lifecycle], fifo: Sequence[Lifecycle]
) -> None:
    """Write an SVG of dwell (95th percentile) over time.

    A trickling org is drawn over the time of arrival: what a task that came then had to wait. The
    flood arrives at once, so it is drawn over the time at which its tasks started.
    """
    import pygal

    colours = tuple(colour for colour in COLOURS[: len(parts)] for _ in (0, 1))
    chart = pygal.XY(
        title="How long tasks wait: fair admission (solid) beside plain FIFO (dashed)",
        x_title="seconds since the flood (arrival; for the flood itself: start)",
        y_title="dwell, 95th percentile",
        dots_size=1.5,
        show_x_guides=False,
        x_value_formatter=lambda x: f"{x:.0f}",
        **look(colours),
    )
    label_waiting(chart, max((t.started_at - t.enqueued_at for t in [*fair, *fifo]), default=0.0))
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
    """Return (seconds, height of the dwell) for each stretch of time in which there was a task."""
    at = [(task.started_at if by_start else task.enqueued_at) - start for task in tasks]
    width = max(at, default=0.0) / _POINTS or 1.0
    stretches: dict[int, list[float]] = {}
    for second, task in zip(at, tasks, strict=True):
        dwell = task.started_at - task.enqueued_at
        stretches.setdefault(int(second / width), []).append(dwell)
    return [
        (round(number * width, 2), height(quantile(dwells, _QUANTILE)))
        for number, dwells in sorted(stretches.items())
    ]


def quantile(values: Sequence[float], q: float) -> float:
    """Return the nearest-rank `q` quantile of non-empty `values`."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]
