"""How numbers, spans of time and names are written; the words are those of the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from orchestrator.text import age, instant, printable

_TEXT_MAX = 2_000
_NONE = "\u2013"


def number(value: float | None) -> str:
    """Return a count with its thousands apart, or a fraction with one digit."""
    if value is None:
        return _NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def span(seconds: float | None) -> str:
    """Return a span of time in its two largest units."""
    return _NONE if seconds is None else age(seconds)


def took(seconds: float | None) -> str:
    """Return how long something took, in the unit that fits."""
    if seconds is None:
        return _NONE
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else age(seconds)


def percent(part: float) -> str:
    """Return a part of one in per cent."""
    return f"{part:.0%}" if part >= 0.1 or part == 0 else f"{part:.1%}"


def moment(at: datetime | None) -> str:
    """Return an instant as ISO 8601 in UTC."""
    return _NONE if at is None else instant(at)


def clock(at: datetime) -> str:
    """Return an instant of today as people read a clock, in UTC."""
    return at.astimezone(UTC).strftime("%H:%M:%S")


def day(at: datetime) -> str:
    """Return an instant to the second, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def plain(value: object, most: int = _TEXT_MAX) -> str:
    """Return text that came from outside, bounded, and with what could hide or reorder shown."""
    text = str(value)
    shown = "\n".join(printable(line) for line in text[:most].split("\n"))
    return shown if len(text) <= most else f"{shown}…"


def label(value: object) -> str:
    """Return a name that came from outside on one line."""
    return printable(str(value))


def pretty(text: str | None, most: int = _TEXT_MAX) -> str:
    """Return stored JSON with its lines indented, or as it is where that cannot be."""
    if text is None:
        return _NONE
    try:
        made = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        made = text
    return plain(made, most)


def ticked(text: str) -> Markup:
    """Return a sentence of ours, escaped, with what stands in backquotes as code."""
    parts = plain(text).split("`")
    if len(parts) % 2 == 0:
        return escape(plain(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if n % 2 else escape(part)
        for n, part in enumerate(parts)
    )


def change(text: str) -> str:
    """Return what an audit line says, as `name value` pairs."""
    try:
        told: Any = json.loads(text)
    except ValueError:
        return plain(text)
    if not isinstance(told, dict):
        return plain(text)
    pairs = [f"{name} {_value(value)}" for name, value in told.items()]
    return plain(", ".join(pairs), 300)


def _value(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


FILTERS = {
    "number": number,
    "span": span,
    "took": took,
    "percent": percent,
    "moment": moment,
    "clock": clock,
    "plain": plain,
    "label": label,
    "pretty": pretty,
    "change": change,
    "ticked": ticked,
    "day": day,
}
