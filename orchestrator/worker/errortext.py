"""What an exception of a handler is stored as: bounded text, whatever the exception is."""

from __future__ import annotations

import traceback
from types import TracebackType

from orchestrator.text import kind_of, said

# Enough for a message and where it came from; a task's history is read by people.
ERROR_MAX_CHARS = 4_000
# Frames of a traceback that are kept: those next to the error.
_FRAMES_MAX = 10


class AttemptFailed(Exception):
    """The attempt failed for a reason that is its whole message."""


def describe(error: BaseException) -> str:
    """Return what `error` says and where it was raised, whatever it is; never raises."""
    text, kind = said(error), kind_of(error)
    # By its type: `isinstance` would ask the exception, which may answer anything.
    if issubclass(type(error), AttemptFailed):
        return text
    head = f"{kind}: {text[:ERROR_MAX_CHARS]}" if text else kind
    return f"{head}\n{_frames(error)}".strip()


def clean(text: object) -> str:
    """Return `text` as PostgreSQL can store it: bounded, no NUL, no half of a surrogate pair."""
    kept = str(text)[:ERROR_MAX_CHARS].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return kept.encode("utf-8", "replace").decode("utf-8")


def _frames(error: BaseException) -> str:
    try:
        trace: TracebackType | None = error.__traceback__
        # The first frame is ours, not the handler's.
        below = trace and trace.tb_next
        return "".join(traceback.format_list(traceback.extract_tb(below, limit=-_FRAMES_MAX)))
    except BaseException:  # noqa: BLE001 - it reads source files, which may have changed or be gone
        return ""
