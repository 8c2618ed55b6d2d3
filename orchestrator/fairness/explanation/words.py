"""How explanations put counts, instants and texts from outside into a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.model import Instant

# Of a text from outside, in a sentence of ours.
_LINE_MAX = 200


def listed(ids: Sequence[int], among: int) -> str:
    """Return task ids, and whether there are more than those."""
    return ", ".join(map(str, ids)) + (" …" if among > len(ids) else "")


def counted(count: int) -> str:
    """Return how many tasks."""
    return f"{count:,} task" if count == 1 else f"{count:,} tasks"


def goes(count: int) -> str:
    """Return the verb for so many."""
    return "goes" if count == 1 else "go"


def since(instant: Instant | None) -> str:
    """Return from when on, if that is known."""
    return f" since {written(instant)}" if instant else ""


def saying(text: str | None) -> str:
    """Return the first line of a text from outside, behind a colon; the whole is a value."""
    first = text.strip().split("\n", 1)[0] if text else ""
    return f": {first[:_LINE_MAX]}{'…' if len(first) > _LINE_MAX else ''}" if first else ""


def at(instant: Instant | None) -> str:
    """Return when, if that is known."""
    return f" at {written(instant)}" if instant else ""


def written(instant: Instant | None) -> str:
    """Return an instant in UTC as people write it."""
    if instant is None:
        return "an unknown time"
    return instant.isoformat(timespec="seconds").replace("+00:00", "Z")


def span(seconds: float) -> str:
    """Return a time in the unit that people would use."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
