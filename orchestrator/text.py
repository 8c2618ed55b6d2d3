"""What may be shown of text that came from outside."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

_SHOWN_MAX = 200


def shown(value: object) -> str:
    """Return how an error message names a refused value: bounded, and never failing itself."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an int of thousands of digits, or a repr that raises
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def decoded(text: str | None) -> Any:
    """Return stored JSON decoded, or its text where JSON's numbers exceed Python's."""
    if text is None:
        return None
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value


def printable(text: str) -> str:
    """Return `text` with everything escaped that could move a cursor, colour, hide or reorder."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def said(error: BaseException) -> str:
    """Return the text of an exception as a plain string, whatever it is; never raises.

    `str` may return a string of a stranger's class, or raise anything: also what would end a
    process, which an exception that is merely told about must not do.
    """
    try:
        return str.__str__(str(error))
    except BaseException:  # noqa: BLE001 - see above
        return "(its text cannot be shown)"


def kind_of(value: object) -> str:
    """Return the name of a value's class; never raises."""
    try:
        return str.__str__(type(value).__qualname__)
    except BaseException:  # noqa: BLE001 - a metaclass may be anything
        return "an object"


def instant(at: datetime) -> str:
    """Return an instant as ISO 8601 in UTC, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def age(seconds: float) -> str:
    """Return a span of time in its two largest units: 3m 12s."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    left = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
