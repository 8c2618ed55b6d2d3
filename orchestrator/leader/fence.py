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


def begin(connection: Connection[Any], term: Term) -> Probe:
    """Begin a transaction that holds the fence, and probe in it; the caller ends it.

    By a commit also where it changed nothing: after a rollback the driver lets the server forget
    every prepared statement of the session, and parsing and planning them anew costs more than many
    ticks.

    Raises `LeadershipLost` where `term` is over.
    """
    probe: Probe | None = run(connection, admission.fenced(term.queue, term.epoch, term.term))
    if probe is None:
        metrics.FENCED_REFUSALS.labels(metrics.named(term.queue)).inc()
        raise LeadershipLost(f"epoch {term.epoch} is over: another replica was elected")
    return probe
