"""The fence: how every transaction of a leader that decides anything begins."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from orchestrator.errors import LeadershipLost
from orchestrator.store import admission
from orchestrator.store.admission import Probe
from orchestrator.store.leadership import Term
from orchestrator.store.sql import run
from orchestrator.telemetry import metrics


def begin(connection: Connection[Any], term: Term, known: Probe | None = None) -> Probe:
    """Begin a transaction that holds the fence, and probe in it; the caller ends it.

    Where something is `known` already, only the version of the configuration is read anew: nobody
    else makes anything ready in this term, so there is no more of it, and no key below the lowest.

    Raises `LeadershipLost` where `term` is over.
    """
    fenced = admission.fenced(term.queue, term.epoch, term.term, known)
    probe: Probe | None = run(connection, fenced)
    if probe is None:
        metrics.FENCED_REFUSALS.labels(metrics.named(term.queue)).inc()
        raise LeadershipLost(f"epoch {term.epoch} is over: another replica was elected")
    return probe
