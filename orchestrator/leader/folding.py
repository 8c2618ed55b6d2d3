"""Folds the journal of the cut into its tables, on a thread and a session beside the leader's.

A tick writes down what it changed as one row; what it would cost to bring each org and flow up to
it is spent here, and once for all ticks that changed the same one meanwhile. Whoever reads the
tables sees the cut as it was a moment ago. Nothing depends on it: an election folds what is left
before the cut is loaded, and a leader whose folding gets nowhere folds by itself.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from psycopg import Connection

from orchestrator.config import LeaderSettings
from orchestrator.leader.session import hang_up, open_beside
from orchestrator.leader.ticker import keep_running
from orchestrator.store import cut as stored
from orchestrator.store.cut import FOLDED_AT_ONCE
from orchestrator.store.sql import PINS, run
from orchestrator.telemetry import metrics

# Between two rounds it pauses: at least so long that ticks gather, and nine times as long as the
# last round took. A held snapshot leaves the dead versions of each row where every round passes
# them: the longer that takes, the fewer are made. But no longer than this, so that a takeover finds
# little.
PAUSE_MIN_S, PAUSE_MAX_S, _PART = 0.1, 1.0, 9
# It got nowhere for so long: the leader is to do it.
PATIENCE_S = 5.0
# How long a stop waits, hanging up on whatever is waited for; it needs no answer.
_STOP_S, _HANG_UP_S = 2.0, 0.1


class Folding:
    """Folds the journal of one queue from `start` until `stop`, whenever there is something."""

    def __init__(self, dsn: str, queue: int, settings: LeaderSettings) -> None:
        self._dsn = dsn
        self._queue = queue
        self._settings = {
            **PINS,
            # Whoever else wants to fold, or to lead, waits no longer than this for us.
            "statement_timeout": round(settings.lock_timeout_s * 500),
            "client_connection_check_interval": round(settings.connection_check_interval_s * 1000),
        }
        # A daemon: one that still connects after `stop` ends without having done anything.
        self._thread = threading.Thread(
            target=self._run, name=f"folding of queue {queue}", daemon=True
        )
        self._connection: Connection[Any] | None = None
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._pause_s = PAUSE_MIN_S
        self._most = FOLDED_AT_ONCE
        # How often the cut was saved, and up to which save the journal is folded.
        self._saves = self._folded = 0
        # When the last of it was folded, or the first came that is not.
        self._moved_at = 0.0
        # The last row of the journal that this session has folded.
        self._last = 0

    def start(self) -> None:
        """Begin; it connects once there is something to fold."""
        self._thread.start()

    def stop(self) -> None:
        """End, and hang up on a statement that is under way: the server does it, or does not."""
        self._stopped.set()
        self._woken.set()
        give_up_at = time.monotonic() + _STOP_S
        while self._thread.is_alive() and time.monotonic() < give_up_at:
            self._thread.join(_HANG_UP_S)
            hang_up(self._connection)

    def note(self, saves: int) -> None:
        """Note how often the cut was saved by now."""
        if saves == self._saves:
            return
        if self._folded == self._saves:
            self._moved_at = time.monotonic()
        self._saves = saves
        self._woken.set()

    @property
    def stalled(self) -> bool:
        """Tell whether there is something to fold and nothing was, for long."""
        waits = self._folded != self._saves
        return waits and time.monotonic() - self._moved_at > PATIENCE_S

    def catch_up(self) -> None:
        """Note that the leader has folded all that was noted."""
        self._folded = self._saves

    def excuse(self) -> None:
        """Note that the leader got nowhere either: it is to try again as late as this once."""
        self._moved_at = time.monotonic()

    def _run(self) -> None:
        try:
            keep_running(
                "fold", self._round, stopping=self._stopped.is_set, wait=self._stopped.wait
            )
        finally:
            self._disconnect()

    def _round(self) -> None:
        """Fold all there is, some time after the first of it came."""
        self._woken.wait()
        if self._stopped.wait(self._pause_s):
            return
        begun_at = time.monotonic()
        self._woken.clear()
        try:
            self._fold()
        except BaseException:
            metrics.LOOP_FAILURES.labels("fold").inc()
            # If it took too long, less of it may do.
            self._most = max(1, self._most // 2)
            self._woken.set()
            self._disconnect()
            raise
        took_s = time.monotonic() - begun_at
        self._pause_s = min(PAUSE_MAX_S, max(PAUSE_MIN_S, _PART * took_s))

    def _fold(self) -> None:
        saves = self._saves
        if self._connection is None:
            self._connection = open_beside(self._dsn, "folding", self._settings)
        while not self._stopped.is_set():
            last = run(self._connection, stored.fold(self._queue, self._last, self._most))
            if last is None:
                self._folded = max(self._folded, saves)
                return
            self._last, self._moved_at = last, time.monotonic()
            self._most = min(FOLDED_AT_ONCE, 2 * self._most)

    def _disconnect(self) -> None:
        # The next session may be one of another server, with a history of its own.
        self._last = 0
        if self._connection is not None:
            self._connection.close()
            self._connection = None
