"""Hears that work became claimable: one listening session for each queue.

A notification may name the sessions that it is for (`summons`); those of others are read and
passed over, without a word to whoever waits here.

The sessions announce the worker to the leader: their application name carries its concurrency, and
the leader keeps at least that much ready. Hence one session for each queue, and not one for all.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import psycopg
import structlog
from psycopg import Connection

from orchestrator.errors import OrchestratorError
from orchestrator.store import leadership
from orchestrator.store.names import ready_channel
from orchestrator.store.sql import run
from orchestrator.wakeup.notices import Notices
from orchestrator.wakeup.summons import summoned
from orchestrator.wakeup.waker import Waker

log = structlog.get_logger()

# A session that cannot be opened is tried again after about this long; polling finds the work
# meanwhile. One that was lost is opened again within it, at a moment of its own: what ends the
# session of one worker ends those of all, and they must not all come back, and look, at once.
_RECONNECT_S = 1.0


class _Session(NamedTuple):
    """A listening session, with its descriptor, which a lost one does not tell, and its backend."""

    fd: int
    connection: Connection[Any]
    notices: Notices
    pid: int | None


class Listener:
    """Listens for queues on behalf of one thread, which `wake` calls from any other."""

    def __init__(
        self, dsn: str, applications: Mapping[int, str], *, connect_timeout_s: float
    ) -> None:
        """Prepare to listen for the queues (by id), each under its application name."""
        self._dsn = dsn
        self._applications = applications
        self._connect_timeout_s = connect_timeout_s
        self._waker = Waker()
        self._sessions: dict[int, _Session] = {}
        self._retry_at = 0.0
        self.wake = self._waker.wake

    def hears(self, queue: int) -> bool:
        """Tell whether a session listens for the queue, as far as we know."""
        return queue in self._sessions

    def connect(self) -> set[int]:
        """Open the sessions that are missing, not more often than once a second or so.

        Return the queues that are heard from now on: what was notified before is unknown, so look.
        """
        missing = self._applications.keys() - self._sessions.keys()
        if not missing or time.monotonic() < self._retry_at:
            return set()
        return {queue for queue in sorted(missing) if self._open(queue)}

    def wait(self, timeout_s: float) -> set[int]:
        """Sleep until notified, woken, or for `timeout_s`; return the queues to look at.

        Sleep no longer than until `connect` is due.
        """
        until = time.monotonic() + timeout_s
        while True:
            if self._applications.keys() - self._sessions.keys():
                until = min(until, self._retry_at)
            readable = self._waker.wait(max(0.0, until - time.monotonic()))
            said = [queue for queue, session in self._sessions.items() if session.fd in readable]
            found = {queue for queue in said if self._drain(queue)}
            if found or not said or self._waker.woken:
                return found

    def close(self) -> None:
        """Close every session."""
        for queue in list(self._sessions):
            self._drop(queue)
        self._waker.close()

    def _open(self, queue: int) -> bool:
        try:
            session = psycopg.connect(
                self._dsn,
                autocommit=True,
                connect_timeout=max(1, round(self._connect_timeout_s)),
                application_name=self._applications[queue],
            )
        except psycopg.Error as error:
            self._failed(queue, error)
            return False
        try:
            opened = _Session(session.fileno(), session, Notices(session), _pid(session))
            session.execute(f"listen {ready_channel(queue)}".encode())
        except (psycopg.Error, OrchestratorError) as error:
            session.close()
            self._failed(queue, error)
            return False
        self._sessions[queue] = opened
        self._waker.add(opened.fd)
        return True

    def _failed(self, queue: int, error: Exception) -> None:
        log.warning("listen.failed", queue=queue, error=str(error).strip())
        self._retry_at = time.monotonic() + _RECONNECT_S * random.uniform(0.5, 1.5)

    def _drain(self, queue: int) -> bool:
        """Read what the server said; tell whether it calls us, not that it hung up."""
        session = self._sessions[queue]
        try:
            # A hint is a hint: what it says is read from the tables.
            return any(summoned(payload, session.pid) for payload in session.notices.take())
        except psycopg.Error as error:
            log.warning("listen.lost", queue=queue, error=str(error).strip())
            self._drop(queue)
            self._retry_at = time.monotonic() + random.uniform(0, _RECONNECT_S)
            return False

    def _drop(self, queue: int) -> None:
        session = self._sessions.pop(queue)
        self._waker.remove(session.fd)
        session.connection.close()


def _pid(session: Connection[Any]) -> int | None:
    """Return the backend by which the leader knows this session; None behind a pooler.

    A pooler makes up the number that it tells its clients, and may change the backend.
    """
    pid: int = run(session, leadership.guard(["port"])).backend_pid
    return pid if pid == session.info.backend_pid else None
