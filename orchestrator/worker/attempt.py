"""How one attempt ends: from what a handler returned or raised to what the database is told."""

from __future__ import annotations

import inspect
import traceback
from types import TracebackType
from typing import Any

from orchestrator.backoff import backoff_s
from orchestrator.errors import InvalidInput
from orchestrator.model import AttemptStatus, Claim
from orchestrator.store.queue import Ending
from orchestrator.worker.app import Discard, Done, Snooze

# Enough for a message and where it came from; a task's history is read by people.
ERROR_MAX_CHARS = 4_000
# Frames of a traceback that are kept: those next to the error.
_FRAMES_MAX = 10


class AttemptFailed(Exception):
    """The attempt failed for a reason that is its whole message."""


def ending(claim: Claim, outcome: object) -> Ending:
    """Return how the attempt ends whose handler returned `outcome`; raise `InvalidInput`."""
    if outcome is None or isinstance(outcome, Done):
        return Ending(claim.dispatch_key, claim.claim_id, AttemptStatus.SUCCEEDED)
    if isinstance(outcome, Snooze):
        text, delay_s = clean(outcome.reason) or None, float(outcome.delay_s)
        return Ending(claim.dispatch_key, claim.claim_id, AttemptStatus.SNOOZED, text, delay_s)
    if isinstance(outcome, Discard):
        text = clean(outcome.reason) or None
        return Ending(claim.dispatch_key, claim.claim_id, AttemptStatus.DISCARDED, text)
    raise _refused(outcome)


def failed(claim: Claim, error: str) -> Ending:
    """Return the end of a failed attempt: another follows after a backoff, if any is left."""
    delay_s = backoff_s(claim.attempt)
    status = AttemptStatus.FAILED
    return Ending(claim.dispatch_key, claim.claim_id, status, clean(error), delay_s)


def dead(claim: Claim, error: str) -> Ending:
    """Return the end of a task that no attempt can help."""
    return Ending(claim.dispatch_key, claim.claim_id, AttemptStatus.DEAD, clean(error))


def released(claim: Claim) -> Ending:
    """Return the end of a claim that is given back unharmed: the attempt does not count."""
    return Ending(claim.dispatch_key, claim.claim_id, AttemptStatus.RELEASED)


def check(outcome: object) -> object:
    """Return `outcome` if a handler may return it; raise `InvalidInput`."""
    if outcome is None or isinstance(outcome, Done | Snooze | Discard):
        return outcome
    raise _refused(outcome)


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


def _refused(outcome: Any) -> InvalidInput:
    kind = type(outcome).__qualname__
    if inspect.iscoroutine(outcome):
        outcome.close()
        return InvalidInput("the handler returned a coroutine: declare it with `async def`")
    return InvalidInput(f"the handler returned {kind:.80}: return None, Done, Snooze or Discard")
