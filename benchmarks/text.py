"""Numbers and bars as people and programs read them: for every document of the benchmarks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.estimates import Bar, Estimate


def number(value: float) -> str:
    """Return `value` with four significant digits; whole and large ones with separators."""
    if not math.isfinite(value):
        return "none" if math.isnan(value) else "never" if value > 0 else "-inf"
    if value == round(value) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def interval(measured: Estimate) -> str:
    """Return the interval of `measured`."""
    return f"{number(measured.low)} to {number(measured.high)}"


def rounded(value: float, digits: int = 5) -> float | str:
    """Return `value` with so many significant digits; as text where JSON has no number for it."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else str(value)


def estimate_values(measured: Estimate, digits: int = 5) -> dict[str, float | str]:
    """Return an estimate as plain values."""
    return {name: rounded(value, digits) for name, value in measured._asdict().items()}


def bar_values(bar: Bar) -> dict[str, object]:
    """Return a bar as plain values."""
    return {
        "name": bar.name,
        "wanted": bar.wanted,
        "passed": bar.passed,
        **({"why": bar.why} if bar.why and not bar.passed else {}),
        **estimate_values(bar.measured),
    }


def bar_lines(bars: Sequence[Bar]) -> list[str]:
    """Return the bars as the lines of a table, and under it what is known about the missed."""
    rows = [
        f"| {bar.name} | {bar.wanted} | {number(bar.measured.mean)} |"
        f" {interval(bar.measured)} | {verdict(bar)} |"
        for bar in bars
    ]
    head = ["| bar | wanted | measured | interval | |", "|---|---|---|---|---|"]
    return [*head, *rows, *missed_lines(bars)]


def missed_lines(bars: Sequence[Bar]) -> list[str]:
    """Return what is known about the missed bars, after an empty line; nothing if nothing is."""
    missed = [f"- {bar.name}: {bar.why.rstrip('.')}." for bar in bars if bar.why and not bar.passed]
    return ["", *missed] if missed else []


def label(benchmark: str, bar: Bar) -> str:
    """Return the name of a bar where its benchmark is named beside it."""
    return bar.name.removeprefix(f"{benchmark}: ")


def verdict(bar: Bar) -> str:
    """Return the verdict on a bar for a table in Markdown."""
    return "met" if bar.passed else "**missed**"
