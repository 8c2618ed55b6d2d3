"""What our figures have in common: colours, a plain look, and an axis of waiting times."""

from __future__ import annotations

import math
from typing import Any

# Told apart in print and by the colour-blind; the light one of a pair is the same hue.
COLOURS = ("#1b7f5c", "#2667c9", "#b3661a", "#c0392b")
LIGHT_COLOURS = ("#8cc7b2", "#9dbbe8", "#dfb78f", "#e3a29b")
# Waiting times are drawn on a logarithmic axis, where nothing may be zero.
FLOOR_S = 0.001
_TICKS = {
    0.001: "1 ms",
    0.01: "10 ms",
    0.1: "0.1 s",
    1.0: "1 s",
    10.0: "10 s",
    100.0: "100 s",
    1_000.0: "17 min",
    10_000.0: "2.8 h",
    100_000.0: "28 h",
}


def height(seconds: float) -> float:
    """Return where a waiting time lies above the lowest of the axis."""
    return math.log10(max(FLOOR_S, seconds) / FLOOR_S)


def label_waiting(chart: Any, longest_s: float) -> None:
    """Label the axis of `height`s up to the first tick above `longest_s`."""
    last = min((s for s in _TICKS if s >= longest_s), default=max(_TICKS))
    chart.y_labels = [
        {"label": label, "value": height(seconds)}
        for seconds, label in _TICKS.items()
        if seconds <= last
    ]


def look(colours: tuple[str, ...]) -> dict[str, Any]:
    """Return the options of a chart: white, without scripts, the legend below in pairs."""
    from pygal.style import Style

    return {
        "style": Style(colors=colours, background="white", plot_background="white", opacity="1"),
        "js": [],
        "width": 1000,
        "height": 560,
        "legend_at_bottom": True,
        "legend_at_bottom_columns": 2,
    }
