"""One test's database with everything that a test opens on it, closed when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from psycopg import Connection, sql

from orchestrator.config import LeaderSettings
from orchestrator.store import orgs
from orchestrator.store.sql import run
from tests.support.stepping import PATIENT, SteppedLeader, connect, enqueue, tasks

P = ParamSpec("P")
T = TypeVar("T")

# More than any test starts at the same time.
_THREADS_MAX = 64


class Stage:
    """Opens connections, leaders and threads on one database, and closes them all at the end."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def __enter__(self) -> Self:
        self._opened = ExitStack()
        self._threads = ThreadPoolExecutor(_THREADS_MAX)
        self.db = self.connect()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Sessions first: whatever a thread still waits for ends with them.
        self._opened.close()
        self._threads.shutdown()

    def connect(self, **settings: str) -> Connection[Any]:
        """Return an autocommit connection with the pins of a queue connection."""
        connection = connect(self.dsn, **settings)
        self._opened.callback(connection.close)
        return connection

    def candidate(
        self,
        *,
        queue: int = 1,
        settings: LeaderSettings = PATIENT,
        alive: Callable[[], None] = lambda: None,
    ) -> SteppedLeader:
        """Return a leader that was not elected yet; `alive` is called once its term has begun."""
        leader = SteppedLeader(self.dsn, queue=queue, settings=settings, alive=alive)
        self._opened.callback(leader.close)
        return leader

    def leader(
        self, *, queue: int = 1, lock: bool = True, settings: LeaderSettings = PATIENT
    ) -> SteppedLeader:
        """Return an elected leader; with `lock=False` a usurper without the advisory lock."""
        return self.candidate(queue=queue, settings=settings).elect(lock=lock)

    def start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `work` on a thread."""
        return self._threads.submit(work, *args, **kwargs)

    def enqueue(self, count: int = 1, org: str = "a", **fields: Any) -> list[int]:
        """Stage `count` tasks of one org; return their ids."""
        return [stored.id for stored in enqueue(self.db, tasks(count, org, **fields))]

    def rows(self, query: str, *params: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.db.execute(query.encode(), params).fetchall()

    def one(self, query: str, *params: object) -> Any:
        """Return the only value of a query."""
        ((value,),) = self.rows(query, *params)
        return value

    def do(self, statement: str, *params: object) -> None:
        """Execute a statement."""
        self.db.execute(statement.encode(), params)

    def set_queue(self, **columns: object) -> None:
        """Change columns of the default queue by hand: also those that no verb changes."""
        changes = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), value)
            for name, value in columns.items()
        )
        self.db.execute(sql.SQL("update orchestrator.queue set {} where id = 1").format(changes))

    def set_org(self, org: str, **fields: Any) -> None:
        """Set an org's configuration as an operator does."""
        with self.db.transaction():
            run(self.db, orgs.set_org(org, actor="test", **fields))

    def expire_leases(self, claim_ids: Sequence[object] | None = None) -> None:
        """Let the time of leases (all of them, if none are named) be over."""
        self.do(
            "update orchestrator.lease set expires_at = clock_timestamp() - interval '1 second'"
            " where %s::uuid[] is null or claim_id = any (%s::uuid[])",
            claim_ids,
            claim_ids,
        )
