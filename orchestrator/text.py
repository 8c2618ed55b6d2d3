"""What may be written to a terminal of text that came from outside."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return `text` with everything escaped that could move a cursor, colour, hide or reorder."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
