"""The fence: how every transaction of a leader that decides anything begins."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from orchestrator.errors import LeadershipLost
from orchestrator.store import admission
from orchestrator.store.admission import Probe
from orchestrator.store.leadership import Term
from orchestrator.store.sql import just, run
from orchestrator.telemetry import metrics


def begin(connection: Connection[Any], term: Term) -> Probe:
    """Begin a transaction that holds the fence, and probe in it; the caller ends it.

    Raises `LeadershipLost` where `term` is over.
    """
    probe: Probe | None = run(connection, admission.fenced(term))
    if probe is None:
        raise refused(term)
    return probe


def hold(connection: Connection[Any], term: Term) -> None:
    """Take the fence in the transaction that is open.

    Raises `LeadershipLost` where `term` is over.
    """
    if not run(connection, just(admission.fence(term))):
        raise refused(term)


def refused(term: Term) -> LeadershipLost:
    """Count and return the error of a term that is over."""
    metrics.FENCED_REFUSALS.labels(metrics.named(term.queue)).inc()
    return LeadershipLost(f"epoch {term.epoch} is over: another replica was elected")
