"""What one term tells those who watch: the watchdog, the probes, the monitor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg import Connection
from psycopg.pq import TransactionStatus

from orchestrator.leader.watchdog import Watchdog
from orchestrator.model import QueueConfig
from orchestrator.store.leadership import Term
from orchestrator.telemetry import metrics
from orchestrator.telemetry.figures import Board, Lead
from orchestrator.telemetry.health import Health


def asks(connection: Connection[Any] | None) -> bool:
    """Tell, from any thread, whether a statement on this connection has no answer yet."""
    if connection is None:
        return False
    return connection.info.transaction_status is TransactionStatus.ACTIVE


class Vitals:
    """The signs of life of one term of one queue, from the lock to the last socket."""

    def __init__(
        self,
        queue: QueueConfig,
        connection: Connection[Any],
        *,
        health: Health,
        board: Board,
        watchdog: Watchdog,
        limit_s: float,
    ) -> None:
        self.name = f"leader of {queue.name}"
        self.queue = queue
        self._health = health
        self._board = board
        self._watchdog = watchdog
        self._loop = health.loop(self.name, limit_s, awaits=lambda: asks(connection))
        self.lead: Lead | None = None
        # How many tasks the leader believes to be staged.
        self.staged: Callable[[], int] = lambda: 0

    def alive(self) -> None:
        """Note that the leader's loop turned."""
        self._watchdog.alive(self.name)
        self._loop.turn()
        if self.lead is not None:
            self.lead.turn()

    def elected(self, term: Term, staged: Callable[[], int]) -> None:
        """Note that the term has begun and its state is loaded; `staged` may be asked any time."""
        # A whole number of the leader's thread: read as it stands.
        self.staged = staged
        name = self.queue.name
        self.lead = self._board.lead(name, term.epoch)
        metrics.ELECTIONS.labels(name).inc()
        # From 0, so that a first one is seen as a rise.
        for counter in (
            metrics.FENCED_REFUSALS,
            metrics.TERMS_LOST,
            metrics.REPAIRS,
            metrics.REAPED,
            metrics.EXPIRATIONS,
            metrics.RETRIES,
            metrics.DEAD_LETTERS,
        ):
            counter.labels(name)
        self._loop.works()

    def lost(self) -> None:
        """Note that the term ended otherwise than by a resignation."""
        metrics.TERMS_LOST.labels(self.queue.name).inc()

    def end(self) -> None:
        """Tell nothing of it any more."""
        if self.lead is not None:
            self._board.leave(self.lead)
        self._health.forget(self._loop)
        self._watchdog.forget(self.name)
