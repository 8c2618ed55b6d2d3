"""What an exception of a handler is stored as: bounded text, whatever the exception is."""

from __future__ import annotations

import traceback
from types import TracebackType

# Enough for a message and where it came from; a task's history is read by people.
ERROR_MAX_CHARS = 4_000
# Frames of a traceback that are kept: those next to the error.
_FRAMES_MAX = 10


class AttemptFailed(Exception):
    """The attempt failed for a reason that is its whole message."""


def describe(error: BaseException) -> str:
    """Return what `error` says and where it was raised, whatever it is; never raises."""
    if isinstance(error, AttemptFailed):
        return str(error)
    try:
        said = str(error)
    except BaseException:  # noqa: BLE001 - a handler's exception may be anything
        said = "(its text cannot be shown)"
    kind = type(error).__qualname__
    head = f"{kind}: {said[:ERROR_MAX_CHARS]}" if said else kind
    return f"{head}\n{_frames(error.__traceback__)}".strip()


def clean(text: object) -> str:
    """Return `text` as PostgreSQL can store it: bounded, no NUL, no half of a surrogate pair."""
    kept = str(text)[:ERROR_MAX_CHARS].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return kept.encode("utf-8", "replace").decode("utf-8")


def _frames(trace: TracebackType | None) -> str:
    try:
        # The first frame is ours, not the handler's.
        below = trace and trace.tb_next
        return "".join(traceback.format_list(traceback.extract_tb(below, limit=-_FRAMES_MAX)))
    except Exception:  # noqa: BLE001 - it reads source files, which may have changed or be gone
        return ""
