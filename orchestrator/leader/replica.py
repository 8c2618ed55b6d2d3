"""A replica: stands for election for its queues, leads those it wins, one thread and session
each.
"""

from __future__ import annotations

import math
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

import structlog
from psycopg import Connection

from orchestrator.config import Settings
from orchestrator.errors import LeadershipLost, OrchestratorError, UnknownQueue
from orchestrator.leader.chores import Chores
from orchestrator.leader.figures import Figures
from orchestrator.leader.folding import Folding
from orchestrator.leader.reign import Reign
from orchestrator.leader.session import open_session
from orchestrator.leader.ticker import keep_running
from orchestrator.leader.vitals import Vitals, asks
from orchestrator.leader.watchdog import Watchdog
from orchestrator.model import QueueConfig
from orchestrator.store import leadership
from orchestrator.store.leadership import Attempt
from orchestrator.store.sql import run
from orchestrator.telemetry import metrics
from orchestrator.telemetry.figures import Board
from orchestrator.telemetry.health import Health
from orchestrator.wakeup.bumper import Bumper
from orchestrator.wakeup.waker import Waker

log = structlog.get_logger()

# New queues are found this often by who leads nothing; looking at each poll would double the
# statements of an idle system.
_QUEUES_INTERVAL_S = 10.0
# The part of the timeout of an idle session after which one that polls no lock speaks.
_HEARD_OF = 0.8
# Who leads already stands this much later, so that a replica that leads nothing comes first.
_SPREAD = 1.5
# A leader that says nothing any more is ended at a time that is known: those who stand by ask so
# soon after it. Not at once, or they would all come together, and the server needs a moment.
_AFTER_S = (0.01, 0.06)


def new_holder() -> str:
    """Return a name for this process that no other has."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


class Replica:
    """Stands for election and leads, until `stop`."""

    def __init__(self, dsn: str, settings: Settings, *, holder: str | None = None) -> None:
        self._dsn = dsn
        self._settings = settings.leader
        self.holder = holder or new_holder()
        # A flag and a socket, not an Event: its lock may be held by the very thread a signal
        # interrupts.
        self._stopping = False
        self._waker = Waker()
        self._lock = threading.Lock()
        self._reigns: dict[int, tuple[Reign, threading.Thread]] = {}
        # In how long a lock that was refused should be free: its leader has fallen silent.
        self._free_in_s = math.inf
        self._watchdog = Watchdog(settings.leader.watchdog_s)
        self.health = Health()
        self.board = Board()
        self._vitals: dict[int, Vitals] = {}
        figures = Figures(dsn, settings.metrics, self.board, self._led)
        # Where nobody is shown them, nobody reads them.
        self._chores = Chores(
            dsn, settings, self.leading, figures if settings.metrics.listen else None
        )
        self._candidate: Connection[Any] | None = None
        self._standing = self.health.loop("election loop", awaits=lambda: asks(self._candidate))
        self._bumper = Bumper(settings.redis) if settings.redis.url else None

    def run(self) -> None:
        """Stand and lead until `stop`; then give every lock back and return."""
        self._watchdog.start()
        self._chores.start()
        if self._bumper is not None:
            self._bumper.start()
        try:
            keep_running("stand", self._noted, stopping=self._is_stopping, wait=self._waker.wait)
        finally:
            self._end_reigns()
            if self._bumper is not None:
                self._bumper.stop()
            self._chores.stop()
            self._watchdog.stop()
            self._waker.close()

    def stop(self) -> None:
        """Ask the replica to let go; safe in a signal handler."""
        self._stopping = True
        self.health.drain()
        self._waker.wake()
        for reign, _ in list(self._reigns.values()):
            reign.waker.wake()

    def _is_stopping(self) -> bool:
        return self._stopping

    def leading(self) -> list[int]:
        """Return the ids of the queues this replica leads now."""
        with self._lock:
            return sorted(self._reigns)

    def _led(self) -> list[Vitals]:
        with self._lock:
            return list(self._vitals.values())

    def _noted(self) -> None:
        """Stand, and let the probes know why that failed."""
        try:
            self._stand()
        except Exception as error:
            self._standing.fails(error)
            metrics.LOOP_FAILURES.labels(self._standing.name).inc()
            raise

    def _stand(self) -> None:
        """Poll the locks of the queues we do not lead on one candidate session, until one is
        won.
        """
        with self._standing.connecting():
            connection = open_session(self._dsn, self._settings, holder=self.holder)
        self._candidate = connection
        leads = False
        try:
            queues: list[QueueConfig] = []
            looked_at = 0.0
            while not self._stopping:
                self._bury()
                if not queues or time.monotonic() - looked_at >= self._look_s(queues):
                    queues, looked_at = self._queues(connection), time.monotonic()
                won = self._try(connection, queues)
                self._standing.works()
                if won is not None:
                    self._start(connection, won)
                    leads = True
                    return
                self._waker.wait(self._wait_s(queues, looked_at))
        finally:
            self._candidate = None
            if not leads:
                connection.close()

    def _queues(self, connection: Connection[Any]) -> list[QueueConfig]:
        names = list(self._settings.queues)
        found: list[QueueConfig] = run(connection, leadership.queues(names or None))
        missing = sorted(set(names) - {queue.name for queue in found})
        if missing:
            raise UnknownQueue(f"no queue {missing[0]!r}: create it with `orchestrator queue set`")
        metrics.NAMES.update((queue.id, queue.name) for queue in found)
        self.board.stand(queue.name for queue in found)
        return found

    def _try(self, connection: Connection[Any], queues: list[QueueConfig]) -> QueueConfig | None:
        leading = self.leading()
        self._free_in_s = math.inf
        for queue in queues:
            if queue.id in leading:
                continue
            silent_s = self._settings.idle_session_timeout_s
            attempt: Attempt = run(connection, leadership.try_lock(queue.id, silent_s))
            if attempt.ended:
                log.warning("leader.silent", queue=queue.name, silent_s=silent_s)
            if not attempt.taken:
                self._free_in_s = min(self._free_in_s, self._expected_s(attempt))
                continue
            if attempt.backend_pid == connection.info.backend_pid and run(
                connection, leadership.holds_lock(queue.id)
            ):
                return queue
            raise LeadershipLost("the advisory lock is not held by this session: a pooler?")
        return None

    def _expected_s(self, attempt: Attempt) -> float:
        """Return in how long the server ends a leader that has fallen silent, if it stays so."""
        left_s = self._settings.idle_session_timeout_s - attempt.silent_s
        # Long overdue it is not ended by its silence: asking more often would change nothing.
        return math.inf if left_s < -self._settings.election_poll_s else max(0.0, left_s)

    def _look_s(self, queues: Sequence[QueueConfig]) -> float:
        """Return how long to go on with the queues that are known."""
        if len(queues) > len(self._reigns):
            return _QUEUES_INTERVAL_S
        # Who leads every queue polls none: this look is then all that its session is heard of.
        return min(_QUEUES_INTERVAL_S, self._settings.idle_session_timeout_s * _HEARD_OF)

    def _wait_s(self, queues: Sequence[QueueConfig], looked_at: float) -> float:
        """Return how long to wait until the next poll, or look where nothing is polled."""
        if len(queues) > len(self._reigns):
            return self._poll_s()
        return max(0.0, min(self._poll_s(), looked_at + self._look_s(queues) - time.monotonic()))

    def _poll_s(self) -> float:
        """Return when to ask again: soon after the lock should be free, if that is sooner."""
        spread = _SPREAD if self._reigns else 1.0
        usual = self._settings.election_poll_s * spread * random.uniform(0.8, 1.2)
        return min(usual, self._free_in_s + random.uniform(*_AFTER_S) * spread)

    def _start(self, connection: Connection[Any], queue: QueueConfig) -> None:
        vitals = Vitals(
            queue,
            connection,
            health=self.health,
            board=self.board,
            watchdog=self._watchdog,
            limit_s=self._settings.watchdog_s,
        )
        folding = Folding(self._dsn, queue.id, self._settings)
        reign = Reign(
            connection,
            queue,
            self._settings,
            holder=self.holder,
            stopping=self._is_stopping,
            alive=vitals.alive,
            elected=vitals.elected,
            bumper=self._bumper,
            folding=folding,
        )
        thread = threading.Thread(
            target=self._lead, args=(reign, connection, queue, vitals, folding), name=vitals.name
        )
        with self._lock:
            self._reigns[queue.id] = (reign, thread)
            self._vitals[queue.id] = vitals
        try:
            folding.start()
            thread.start()
        except BaseException:
            # The system has no thread left: others may have, and we may again in a moment.
            folding.stop()
            vitals.end()
            self._forget(reign, queue)
            raise

    def _lead(
        self,
        reign: Reign,
        connection: Connection[Any],
        queue: QueueConfig,
        vitals: Vitals,
        folding: Folding,
    ) -> None:
        """Lead until the term ends, however it ends; nothing of it outlives its session."""
        try:
            reign.lead()
        except OrchestratorError as error:
            vitals.lost()
            log.warning("leader.lost", queue=queue.name, reason=str(error))
        except Exception:
            # Not one of ours: a mistake of this code, so where it happened matters.
            vitals.lost()
            log.exception("leader.lost", queue=queue.name)
        finally:
            # What it tells and the socket first: from here on the server may give the lock to
            # anybody.
            vitals.end()
            connection.close()
            self._forget(reign, queue)
            folding.stop()

    def _forget(self, reign: Reign, queue: QueueConfig) -> None:
        with self._lock:
            self._reigns.pop(queue.id, None)
            self._vitals.pop(queue.id, None)
        reign.waker.close()

    def _bury(self) -> None:
        for _, thread in list(self._reigns.values()):
            if not thread.is_alive() and thread.ident is not None:
                thread.join()

    def _end_reigns(self) -> None:
        self.stop()
        for _, thread in list(self._reigns.values()):
            thread.join()
