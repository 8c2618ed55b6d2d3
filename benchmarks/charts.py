"""The figures: what was measured as SVG, small enough to keep beside the text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.estimates import Series
from orchestrator.chart import COLOURS, LIGHT_COLOURS, height, label_waiting, look

_OURS = COLOURS[0]
_OTHERS = (COLOURS[3], COLOURS[1], COLOURS[2], LIGHT_COLOURS[1], "#7a7a7a")
# Lying bars: ours and the others', of the first group and of the second.
_LEVELS = ((COLOURS[0], "#69737f"), (LIGHT_COLOURS[0], "#bcc4cd"))
# The width that the library takes for a line is overruled by its own style.
_CSS = (
    "file://style.css",
    "file://graph.css",
    "inline:.series .line{stroke-width:2.5px !important}",
)
# Values stand beside their bars, not across the ends.
_BESIDE = "inline:.text-overlay text.value{text-anchor:start !important}"
# Figures are shown at less than their own width.
_LABEL_PX = 13
# Guides stand behind values.
_GUIDE = "#c9ced4"


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
    _write(path, chart)


def lines(
    path: Path,
    title: str,
    x_title: str,
    y_title: str,
    series: Sequence[Series],
    labels: Mapping[float, str],
) -> None:
    """Write a chart of lines over x, from zero; `labels` name places of x."""
    chart = _xy(title, x_title, y_title, series)
    chart.x_labels = [{"label": text, "value": x} for x, text in labels.items()]
    marks = _marks([y for line in series for _, y in line.points])
    chart.y_labels = [{"label": _value(mark), "value": mark} for mark in marks]
    chart.config.include_x_axis = True
    # A label stands in the middle below the last point.
    chart.config.margin_right = 60
    chart.config.legend_at_bottom_columns = min(3, len(series))
    _larger({"style": chart.config.style})
    for line in series:
        points = [(round(x, 2), float(f"{y:.4g}")) for x, y in line.points]
        chart.add(line.name, points, stroke_style=_stroke(line))
    _write(path, chart)


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
    _write(path, chart)


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
    _write(path, chart)


def levels(
    path: Path,
    title: str,
    x_title: str,
    names: Sequence[str],
    groups: Mapping[str, Sequence[float | None]],
    *,
    logarithmic: bool = False,
) -> None:
    """Write a chart of lying bars with their values: for each name, from above, one of each group.

    The first name is ours and stands out. At most two groups. None is no bar and no value.
    """
    import pygal

    values = [value for group in groups.values() for value in group if value is not None]
    marks = (_log_marks if logarithmic else _marks)(values)
    chart = pygal.HorizontalBar(
        title=title,
        x_title=x_title,
        x_labels=list(reversed(names)),
        y_labels=[{"label": _value(mark), "value": mark} for mark in marks],
        range=(marks[0], _beyond(marks[0], max(values), logarithmic)),
        logarithmic=logarithmic,
        zero=marks[0],
        print_values=True,
        print_values_position="top",
        formatter=_value,
        css=[*_CSS, _BESIDE],
        **_larger(look(tuple(pair[1] for pair in _LEVELS[: len(groups)])))
        | {"legend_at_bottom_columns": 2, "show_legend": len(groups) > 1, "margin_right": 30},
    )
    for (ours, _), (group, found) in zip(_LEVELS, groups.items(), strict=False):
        shown = [_shown(value, marks[0]) for value in found]
        shown[0] |= {"color": ours}
        chart.add(group, list(reversed(shown)))
    _write(path, chart)


def _write(path: Path, chart: Any) -> None:
    """Write the chart so that the same values give the same file."""
    chart.uuid = path.stem
    path.write_bytes(re.sub(rb"<!--.*?-->", b"", chart.render(), flags=re.DOTALL))


def _shown(value: float | None, lowest: float) -> dict[str, Any]:
    """Return a bar; one below the lowest mark, as zero is on a logarithmic axis, has no length."""
    if value is None or value >= lowest:
        return {"value": value}
    return {"value": lowest, "formatter": lambda _: _value(value)}


def _larger(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a chart with labels that can be read in a page of text."""
    style = options["style"]
    style.label_font_size = style.major_label_font_size = style.value_font_size = _LABEL_PX
    style.guide_stroke_color = style.major_guide_stroke_color = _GUIDE
    return options


def _beyond(first: float, largest: float, logarithmic: bool) -> float:
    """Return where the axis ends, so that there is room for the largest value beside its bar."""
    if logarithmic:
        return float(largest * (largest / first) ** 0.06)
    return largest * 1.08


def _marks(values: Sequence[float]) -> list[float]:
    """Return about five round numbers from zero to the largest value."""
    rough = max(values) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(factor * power - rough))
    return [step * number for number in range(math.floor(max(values) / step) + 1)]


def _log_marks(values: Sequence[float]) -> list[float]:
    """Return the powers of ten from below the smallest value, from 1 if it is 0, to the largest."""
    smallest = min((value for value in values if value > 0), default=1.0)
    first = math.ceil(math.log10(smallest)) - 1
    first = min(first, 0) if 0 in values else first
    return [10.0**power for power in range(first, math.floor(math.log10(max(values))) + 1)]


def _value(value: float) -> str:
    """Return a value as short as it can be told from its neighbours."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


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
