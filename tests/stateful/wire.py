"""A leader whose session can be cut, or shared with others, at any statement it sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg import Connection, IsolationLevel

from orchestrator.config import LeaderSettings
from orchestrator.leader.reign import Reign
from orchestrator.leader.session import open_session
from orchestrator.leader.tick import Ticked
from orchestrator.model import QueueConfig
from orchestrator.store import leadership
from orchestrator.store.sql import run

Hook = Callable[[bytes], None]


class Wire:
    """A connection that calls `before` and `after` with each statement.

    While `stepwise`, a pipeline is taken apart, so that every statement of it is a point in time of
    its own. What each statement sees differs little: every one has a snapshot of its own anyway.
    """

    def __init__(self, connection: Connection[Any]) -> None:
        self.connection = connection
        self.before: Hook = _nothing
        self.after: Hook = _nothing
        self.stepwise = False

    def execute(self, statement: bytes, *args: Any, **kwargs: Any) -> Any:
        self.before(statement)
        cursor = self.connection.execute(statement, *args, **kwargs)
        self.after(statement)
        return cursor

    @contextmanager
    def pipeline(self) -> Iterator[Any]:
        if self.stepwise:
            yield self
        else:
            with self.connection.pipeline() as pipeline:
                yield pipeline

    def cut(self) -> None:
        """End the session in the middle of what it does."""
        self.connection.close()
        raise psycopg.OperationalError("the connection was cut")

    @property
    def isolation_level(self) -> IsolationLevel | None:
        return self.connection.isolation_level

    @isolation_level.setter
    def isolation_level(self, level: IsolationLevel | None) -> None:
        self.connection.isolation_level = level

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


def _nothing(statement: bytes) -> None:
    del statement


class Leader:
    """A replica that stands by with the queue as configured now, until it is told to lead."""

    def __init__(self, dsn: str, queue: int, settings: LeaderSettings) -> None:
        self.wire = Wire(open_session(dsn, settings, holder="stateful"))
        self.pid = self.wire.connection.info.backend_pid
        config: QueueConfig = run(self.wire.connection, leadership.queue(queue))
        self.reign = Reign(
            cast("Connection[Any]", self.wire),
            config,
            settings,
            holder="stateful",
            stopping=lambda: False,
            alive=lambda: None,
        )
        self._last = Ticked()

    def open(self) -> None:
        """Open a term, whoever leads; the fence alone must keep the two apart."""
        self.reign.open()
        # As the loop begins: what the former leader was told is in no feed any more.
        self._last = Ticked(blocked=True)

    def tick(self) -> Ticked:
        """Do one tick."""
        self._last = self.reign.tick.tick()
        return self._last

    def step(self) -> Ticked:
        """Look, keep house, and tick if there is anything to do: what the loop does."""
        _, self._last = self.reign.step(self._last)
        return self._last

    @property
    def scheduler(self) -> Any:
        return self.reign.cut.scheduler

    @contextmanager
    def disturbed(self, *, before: Hook = _nothing, after: Hook = _nothing) -> Iterator[None]:
        """Send statement by statement, with hooks around each."""
        self.wire.before, self.wire.after, self.wire.stepwise = before, after, True
        try:
            yield
        finally:
            self.wire.before, self.wire.after, self.wire.stepwise = _nothing, _nothing, False

    @contextmanager
    def watched(self, before: Hook) -> Iterator[None]:
        """Call `before` with each statement, pipelines as they are."""
        self.wire.before = before
        try:
            yield
        finally:
            self.wire.before = _nothing

    def close(self) -> None:
        """End the session, as a crash would."""
        self.wire.connection.close()
        self.reign.waker.close()
