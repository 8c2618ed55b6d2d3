"""How one attempt ends: from what a handler returned or raised to what the database is told."""

from __future__ import annotations

from orchestrator.backoff import backoff_s
from orchestrator.model import AttemptStatus, Claim
from orchestrator.store.queue import Ending
from orchestrator.worker.app import Discard, Snooze, checked
from orchestrator.worker.errortext import clean


def ending(claim: Claim, answer: object) -> Ending:
    """Return how the attempt ends whose handler returned `answer`; raise `InvalidInput`."""
    outcome = checked(answer)
    if isinstance(outcome, Snooze):
        text, delay_s = clean(outcome.reason) or None, float(outcome.delay_s)
        return Ending(claim.dispatch_key, claim.claim_id, AttemptStatus.SNOOZED, text, delay_s)
    if isinstance(outcome, Discard):
        text = clean(outcome.reason) or None
        return Ending(claim.dispatch_key, claim.claim_id, AttemptStatus.DISCARDED, text)
    return Ending(claim.dispatch_key, claim.claim_id, AttemptStatus.SUCCEEDED)


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
