"""The figures: what was measured as SVG, small enough to keep beside the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.fairness.estimates import Series
from orchestrator.chart import COLOURS, LIGHT_COLOURS, height, label_waiting, look

_OURS = COLOURS[0]
_OTHERS = (COLOURS[3], COLOURS[1], COLOURS[2], LIGHT_COLOURS[1], "#7a7a7a")
# The width that the library takes for a line is overruled by its own style.
_CSS = (
    "file://style.css",
    "file://graph.css",
    "inline:.series .line{stroke-width:2.5px !important}",
)


def waiting(
    path: Path, title: str, x_title: str, series: Sequence[Series], *, labels: Mapping[float, str]
) -> None:
    """Write a chart of waiting times, on a logarithmic axis, over x; `labels` name places of x."""
    chart = _xy(title, x_title, "dwell", series)
    if labels:
        chart.x_labels = [{"label": text, "value": x} for x, text in labels.items()]
    longest = max((y for line in series for _, y in line.points), default=1.0)
    label_waiting(chart, longest)
    for line in series:
        points = [(round(x, 2), round(height(y), 3)) for x, y in line.points]
        chart.add(line.name, points, stroke_style=_stroke(line))
    path.write_bytes(chart.render())


def stacks(
    path: Path, title: str, y_title: str, names: Sequence[str], parts: Mapping[str, Sequence[float]]
) -> None:
    """Write a chart of stacked bars: one for each name, of the same parts."""
    import pygal

    colours = (COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[3])[: len(parts)]
    chart = pygal.StackedBar(
        title=title,
        y_title=y_title,
        range=(0, 100),
        x_labels=list(names),
        y_labels=[0, 20, 40, 60, 80, 100],
        **look(colours) | {"legend_at_bottom_columns": len(parts)},
    )
    for part, values in parts.items():
        chart.add(part, [round(value, 1) for value in values])
    path.write_bytes(chart.render())


def bars(
    path: Path,
    title: str,
    y_title: str,
    names: Sequence[str],
    groups: Mapping[str, Sequence[float]],
) -> None:
    """Write a chart of bars side by side: for each name one of each group."""
    import pygal

    colours = (COLOURS[0], COLOURS[3])[: len(groups)]
    chart = pygal.Bar(
        title=title,
        y_title=y_title,
        x_labels=list(names),
        **look(colours) | {"legend_at_bottom_columns": len(groups)},
    )
    for group, values in groups.items():
        chart.add(group, [round(value, 1) for value in values])
    path.write_bytes(chart.render())


def _xy(title: str, x_title: str, y_title: str, series: Sequence[Series]) -> Any:
    import pygal

    others = iter(_OTHERS)
    colours = tuple(next(others) if line.dashed else _OURS for line in series)
    return pygal.XY(
        title=title,
        x_title=x_title,
        y_title=y_title,
        dots_size=2.5,
        css=list(_CSS),
        show_x_guides=False,
        **look(colours) | {"legend_at_bottom_columns": 3},
    )


def _stroke(line: Series) -> dict[str, object]:
    return {"dasharray": "6, 4"} if line.dashed else {}
