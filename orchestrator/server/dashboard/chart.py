"""Curves of what came and went, as the numbers of an SVG: what is seen before, or without, a
script.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

WIDTH, HEIGHT = 1000, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 8, 10, 26
_GRID = 4
_LABELS = 5


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: its name, its CSS class, and the points of a `polyline`."""

    name: str
    css: str
    points: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Everything a template draws; `data` is the same for a script, as JSON."""

    width: int
    height: int
    left: int
    right: int
    curves: tuple[Curve, ...]
    grid: tuple[tuple[float, str], ...]
    times: tuple[tuple[float, str], ...]
    data: str
    summary: str


def chart(
    at: Sequence[datetime], lines: Sequence[tuple[str, str, Sequence[float]]], unit: str
) -> Chart:
    """Return the chart of `lines`, each (name, CSS class, a value for every instant)."""
    top = _round_up(max((value for _, _, values in lines for value in values), default=0.0))
    wide, high = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    step = wide / max(1, len(at) - 1)

    def points(values: Sequence[float]) -> str:
        return " ".join(
            f"{_LEFT + n * step:.1f},{_TOP + high * (1 - value / top):.1f}"
            for n, value in enumerate(values)
        )

    every = max(1, math.ceil(len(at) / _LABELS))
    return Chart(
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=WIDTH - _RIGHT,
        curves=tuple(Curve(name, css, points(values)) for name, css, values in lines),
        grid=tuple(
            (_TOP + high * (1 - n / _GRID), f"{top * n / _GRID:g}") for n in range(_GRID + 1)
        ),
        times=tuple(
            (_LEFT + n * step, at[n].astimezone(UTC).strftime("%H:%M"))
            for n in range(every // 2, len(at), every)
        ),
        data=json.dumps(
            {
                "at": [round(each.timestamp()) for each in at],
                "lines": [
                    {"name": name, "css": css, "values": [round(v, 2) for v in values]}
                    for name, css, values in lines
                ],
                "unit": unit,
            }
        ),
        summary="; ".join(
            f"{name}: {values[-2]:.1f}{unit} now, at most {max(values):.1f}{unit}"
            for name, _, values in lines
            if len(values) > 1
        ),
    )


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 4, 8, 10, 20 … that is not below `value`."""
    if value <= 1:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(scale * n for n in (1, 2, 4, 8, 10) if scale * n >= value)
