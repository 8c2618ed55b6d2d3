"""The blocking client, for threads and scripts."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
import sqlalchemy
from psycopg import Connection

from orchestrator.client import gathering
from orchestrator.client.claiming import Claiming
from orchestrator.client.connections import (
    ACCEPTED,
    URL,
    Access,
    check_dialect,
    drop_dead,
    given,
    plain,
    pool_options,
    translating,
)
from orchestrator.client.explaining import Explaining
from orchestrator.client.gathering import Joint, Line, Seat, Turn
from orchestrator.client.lending import Lending
from orchestrator.client.operating import Operating
from orchestrator.client.producing import Producing
from orchestrator.client.specs import shown
from orchestrator.client.steps import Blocking, Pause, Steps, Work, arranged
from orchestrator.config import Settings
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.store.names import ready_channel
from orchestrator.store.sql import run
from orchestrator.store.wire import Wired

T = TypeVar("T")


class Client(Producing, Claiming, Operating, Explaining, Blocking):
    """Every verb, blocking; safe to share between threads, not between processes.

    `database` is a DSN, a SQLAlchemy `Engine` over psycopg 3, or None for what the configuration
    names (`DATABASE_URL`). With a DSN the client keeps a pool of its own until `close`. `settings`
    default to those of the configuration where it is read, else to the defaults. `name` stands for
    this process in leases and in the audit log. A pooler in transaction mode is noticed; where one
    hides, `prepare_threshold=None` does without prepared statements.
    """

    def __init__(
        self,
        database: str | sqlalchemy.Engine | None = None,
        *,
        settings: Settings | None = None,
        name: str | None = None,
        prepare_threshold: int | None = 1,
    ) -> None:
        dsn, settings = given(database, settings)
        super().__init__(settings, name)
        self._access: Access | None = None
        self._ear: _Ear | None = None
        self._lines: dict[int, Line] = {}
        # The threads that stand in one of these lines.
        self._joining: set[int] = set()
        if isinstance(database, sqlalchemy.Engine):
            check_dialect(database)
            self._engine = database
        elif isinstance(dsn, str):
            access = Access(dsn, settings.database, prepare_threshold=prepare_threshold)
            self._access = access
            self._ear = _Ear(access)
            self._engine = sqlalchemy.create_engine(
                URL, creator=lambda: connect(access), **pool_options(settings.database)
            )
            drop_dead(self._engine)
        else:
            raise InvalidInput(f"Client takes a DSN or a SQLAlchemy Engine, not {shown(database)}")
        self._lending = Lending(self._engine, mine=self._access is not None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections this client made; an Engine it was given stays open."""
        mine = not self._closed and self._pid == os.getpid()
        self._closed = True
        if mine and self._ear is not None:
            self._ear.close()
            self._lending.close()
            self._engine.dispose()

    def _drive(self, steps: Steps[T]) -> T:
        answer: Any = None
        failure: OrchestratorError | None = None
        while True:
            try:
                step = steps.send(answer) if failure is None else steps.throw(failure)
            except StopIteration as done:
                value: T = done.value
                return value
            answer = failure = None
            if isinstance(step, Pause):
                self._pause(step)
                continue
            try:
                answer = self._work(step)
            except OrchestratorError as error:
                # The verb's to judge: part of what it does may be done.
                failure = error

    def _work(self, work: Work) -> Any:
        if work.joint is None:
            return self._by_itself(work)
        self._check_usable()
        me = threading.get_ident()
        if me in self._joining:
            # A signal handler or a finalizer that interrupts a call which it would wait for.
            return self._by_itself(work)
        self._joining.add(me)
        try:
            return self._joined(work, work.joint)
        finally:
            self._joining.discard(me)

    def _joined(self, work: Work, joint: Joint) -> Any:
        line = self._lines.get(joint.queue)
        if line is None:
            line = self._lines.setdefault(joint.queue, Line(gathering.LINGER_PART))
        seat = _Seat(joint)
        try:
            if line.enter(seat):
                return self._by_itself(work)
            seat.wait(line)
            if seat.turn is Turn.LEAD:
                self._lead(line, seat, work.doubt)
        finally:
            _leave(line, seat)
        if seat.turn is Turn.ALONE:
            return self._by_itself(work)
        return seat.outcome()

    def _lead(self, line: Line, seat: Seat, doubt: str) -> None:
        try:
            seat.answered(self._by_itself(Work(operation=line.gather(seat), doubt=doubt)))
        except Exception as error:  # noqa: BLE001  # raised where each that rides along is called
            seat.failed(error)

    def _by_itself(self, work: Work) -> Any:
        self._check_usable()
        if work.connection is not None:
            return self._on(borrowed(work.connection), work)
        loan = self._lending.lend()
        try:
            return self._on(loan.raw, work)
        finally:
            self._lending.take_back(loan)

    def _on(self, raw: Connection[Any], work: Work) -> Any:
        pinned = self._access is not None and not self._access.pooled
        if pinned and work.connection is None and not work.atomic:
            # One of our own, where nothing has to be arranged: nearly every call.
            with translating(raw, work.doubt):
                return run(raw, work.operation)
        with plain(raw, psycopg.Cursor):
            operation, wrapped, commits = arranged(work, raw, pinned=pinned)
            with translating(raw, work.doubt if commits else None):
                if not wrapped:
                    return run(raw, operation)
                with raw.transaction():
                    return run(raw, operation)

    def _pause(self, pause: Pause) -> None:
        self._check_usable()
        if self._ear is None:
            time.sleep(pause.seconds)
        else:
            self._ear.wait(ready_channel(pause.queue), pause.seconds)


def _leave(line: Line, seat: Seat) -> None:
    """Leave the line, whatever interrupts it: somebody may wait to be told."""
    try:
        line.leave(seat)
    except BaseException:
        line.leave(seat)
        raise


class _Seat(Seat):
    """The place of a thread."""

    def __init__(self, joint: Joint) -> None:
        super().__init__(joint)
        # Held until the turn comes: the cheapest thing that a thread can wait for.
        self._bell = threading.Lock()
        self._bell.acquire()

    def wait(self, line: Line) -> None:
        """Sleep until the turn has come."""
        if self.turn is Turn.LEAD:
            self._bell.acquire(timeout=self.linger_s)
            return
        while not self._bell.acquire(timeout=gathering.PATIENCE_S):
            if not line.take_over(self):
                self._bell.acquire()
                return

    def lead(self) -> None:
        """Have the thread itself lead."""
        self.ring()

    def ring(self) -> None:
        """Wake the thread."""
        # It may be rung by two at once.
        with contextlib.suppress(RuntimeError):
            self._bell.release()


class _Ear:
    """One connection that listens. Who finds it taken just sleeps: a notification is a hint."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._connection: Connection[Any] | None = None
        self._channels: set[str] = set()

    def wait(self, channel: str, seconds: float) -> None:
        """Sleep until something is notified on `channel`, or for so long."""
        if self._access.pooled or not self._lock.acquire(blocking=False):
            time.sleep(seconds)
            return
        try:
            for _ in self._listening(channel).notifies(timeout=seconds, stop_after=1):
                pass
        except (psycopg.Error, OrchestratorError):
            self._hang_up()
            time.sleep(seconds)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Hang up once nobody waits any more."""
        with self._lock:
            self._hang_up()

    def _listening(self, channel: str) -> Connection[Any]:
        if self._connection is None:
            self._connection = connect(self._access)
        if channel not in self._channels:
            self._connection.execute(f"listen {channel}".encode())
            self._channels.add(channel)
        return self._connection

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._channels.clear()


def connect(access: Access) -> Connection[Any]:
    """Open one connection of a client's own."""
    try:
        raw = Wired.connect(**access.parameters())
    except psycopg.OperationalError as error:
        if not access.refused(error):
            raise
        raw = Wired.connect(**access.parameters())
    try:
        # What is prepared is the wire's, where there is one, and behind a pooler nobody's.
        prepares, raw.prepare_threshold = raw.prepare_threshold is not None, None
        access.learn(raw, run(raw, access.probe()))
        if prepares and not access.pooled:
            raw.lay_wire()
    except BaseException:
        raw.close()
        raise
    return raw


def borrowed(lender: object) -> Connection[Any]:
    """Return the psycopg connection beneath the caller's; raise `InvalidInput` where there is none.

    A SQLAlchemy connection is told that its transaction has begun, else its `commit` would do
    nothing.
    """
    if isinstance(lender, Connection):
        return lender
    connection = lender if isinstance(lender, sqlalchemy.Connection) else _of_session(lender)
    if not isinstance(connection, sqlalchemy.Connection):
        raise InvalidInput(ACCEPTED.format(kind="", given=shown(lender)))
    if not connection.in_transaction():
        connection.begin()
    raw = connection.connection.driver_connection
    if not isinstance(raw, Connection):
        raise InvalidInput(ACCEPTED.format(kind="", given=f"one over {type(raw).__module__}"))
    return raw


def _of_session(lender: object) -> object:
    # Imported here: a process without a session never pays for the ORM.
    from sqlalchemy.orm import Session, scoped_session

    return lender.connection() if isinstance(lender, Session | scoped_session) else None
