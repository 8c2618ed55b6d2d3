"""Charges attempts that still run for what they have used beyond their charge.

Whoever runs hour-long tasks that were guessed to take a second would otherwise be charged a second
each until the first one ends. Charges go up in geometric steps, so a task is charged O(log
duration) times; settling at its end gives back what was too much. Leases are looked at in turn, so
many at a time, that a look costs the same however much is in flight.

Source: refreshing in 2DFQ (Mace et al. 2016).
"""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from psycopg import Connection

from orchestrator.fairness.signal import FairnessWindow
from orchestrator.leader.cut import Cut
from orchestrator.leader.fence import begin
from orchestrator.leader.transaction import Transaction
from orchestrator.model import CostMode
from orchestrator.store import admission
from orchestrator.store.admission import COMMIT, REFRESH_INTERVAL_S
from orchestrator.store.leadership import Term
from orchestrator.store.sql import just, run

_FIRST = UUID(int=0)


class Refresher:
    """Looks at running attempts during one term, each time in a fenced transaction of its own."""

    def __init__(
        self,
        connection: Connection[Any],
        term: Term,
        cut: Cut,
        transaction: Transaction,
        window: FairnessWindow,
    ) -> None:
        self._connection = connection
        self._term = term
        self._cut = cut
        self._transaction = transaction
        self._window = window
        self._after = _FIRST
        self._looked_at = time.monotonic()

    def refresh(self) -> int:
        """Look if it is time to; return how many attempts were charged more.

        The rows and the tags they moved are committed together. Raises `LeadershipLost` where this
        term is over.
        """
        scheduler = self._cut.scheduler
        due = time.monotonic() - self._looked_at >= REFRESH_INTERVAL_S
        if not due or not scheduler.in_flight or scheduler.cost_mode is CostMode.COUNT:
            return 0
        self._looked_at = time.monotonic()
        probe = begin(self._connection, self._term)
        last, outgrown = run(self._connection, admission.refresh(self._term.queue, self._after))
        self._after = last or _FIRST
        for attempt in outgrown:
            scheduler.refresh(attempt)
            self._window.refresh(attempt)
        if not outgrown:
            run(self._connection, just(COMMIT))
            return 0
        scheduler.wake()
        self._transaction.save((probe.config_version, probe.config_deletes))
        return len(outgrown)
