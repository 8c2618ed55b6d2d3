"""How one attempt ends: from what a handler returned or raised to what the database is told.

Every end made here has cost nothing; of an attempt that ran, `Job.measured` then says what it cost.
"""

from __future__ import annotations

from orchestrator.backoff import backoff_s
from orchestrator.log import hidden_lines
from orchestrator.model import AttemptStatus, Claim
from orchestrator.store.queue import Ending
from orchestrator.worker.app import Discard, Snooze, checked
from orchestrator.worker.errortext import clean


def ending(claim: Claim, answer: object) -> Ending:
    """Return how the attempt ends whose handler returned `answer`; raise `InvalidInput`."""
    if answer is None:
        return _ending(claim, AttemptStatus.SUCCEEDED)
    outcome = checked(answer)
    if isinstance(outcome, Snooze):
        text, delay_s = clean(outcome.reason) or None, float(outcome.delay_s or 0)
        return _ending(claim, AttemptStatus.SNOOZED, text, delay_s)
    if isinstance(outcome, Discard):
        text = clean(outcome.reason) or None
        return _ending(claim, AttemptStatus.DISCARDED, text)
    return _ending(claim, AttemptStatus.SUCCEEDED)


def failed(claim: Claim, error: str) -> Ending:
    """Return the end of a failed attempt: another follows after a backoff, if any is left."""
    return _ending(claim, AttemptStatus.FAILED, _stored(error), backoff_s(claim.attempt))


def dead(claim: Claim, error: str) -> Ending:
    """Return the end of a task that no attempt can help."""
    return _ending(claim, AttemptStatus.DEAD, _stored(error))


def released(claim: Claim) -> Ending:
    """Return the end of a claim that is given back unharmed: the attempt does not count."""
    return _ending(claim, AttemptStatus.RELEASED)


def _stored(error: str) -> str:
    """Return an error as the history keeps it: a handler's may quote the DSN it connected with."""
    return hidden_lines(clean(error))


def _ending(
    claim: Claim, status: AttemptStatus, error: str | None = None, delay_s: float = 0.0
) -> Ending:
    return Ending(claim.dispatch_key, claim.claim_id, status, error, delay_s, 0, claim.keyed)
