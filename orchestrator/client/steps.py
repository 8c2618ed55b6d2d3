"""Steps: how the body of a verb exists once and serves synchronous and asynchronous callers.

A verb is a generator. It yields what it needs done, a `Work` on a connection or a `Pause`, is sent
the outcome (an error of ours is raised where it stands), and returns its value; it never sees a
connection and never waits itself. A client is a driver of such generators: `Client` blocks,
`AsyncClient` awaits, and there is nothing else in which they differ. `verb` makes a generator
function a method of both, with the types that each one has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator
from functools import update_wrapper
from types import MethodType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    NamedTuple,
    ParamSpec,
    TypeAlias,
    TypeVar,
    overload,
)

from psycopg.pq import TransactionStatus

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.store.sql import PINS, Call, Operation

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy
    from sqlalchemy.ext import asyncio as aio
    from sqlalchemy.orm import Session, scoped_session

    from orchestrator.client.gathering import Joint

    # What `connection=` takes: the first line on `Client`, the second on `AsyncClient`.
    Lender: TypeAlias = (
        psycopg.Connection[Any] | sqlalchemy.Connection | Session | scoped_session[Any]
        | psycopg.AsyncConnection[Any] | aio.AsyncConnection | aio.AsyncSession
        | aio.async_scoped_session[Any]
    )  # fmt: skip

T = TypeVar("T")
P = ParamSpec("P")

UNKNOWN_OUTCOME = "the connection broke before the answer came, so what happened is unknown"


class Work(NamedTuple):
    """An operation to be run on a connection, and what it needs there."""

    operation: Operation
    # The caller's own connection or session, None for one of ours.
    connection: Lender | None = None
    # Several statements that must all commit or none.
    atomic: bool = False
    # The plans must not depend on statistics.
    pinned: bool = False
    # An error must leave no trace in a transaction of the caller, who may go on with it.
    undone: bool = False
    # What to tell the caller where a lost connection hides the outcome.
    doubt: str = UNKNOWN_OUTCOME
    # Where it may share a statement with others that come meanwhile: what it adds to that.
    joint: Joint | None = None


class Pause(NamedTuple):
    """Wait so long, or until the queue has something to claim."""

    queue: int
    seconds: float


Steps: TypeAlias = Generator[Work | Pause, Any, T]


class Blocking(ABC):
    """A client whose verbs return their values."""

    @abstractmethod
    def _drive(self, steps: Steps[T]) -> T: ...

    @staticmethod
    def _verb(body: Callable[Concatenate[Any, P], Steps[T]]) -> Callable[..., Any]:
        def call(client: Blocking, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return client._drive(body(client, *args, **kwargs))

        return update_wrapper(call, body)


class Awaiting(ABC):
    """A client whose verbs return coroutines."""

    @abstractmethod
    async def _drive(self, steps: Steps[T]) -> T: ...

    @staticmethod
    def _verb(body: Callable[Concatenate[Any, P], Steps[T]]) -> Callable[..., Any]:
        async def call(client: Awaiting, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return await client._drive(body(client, *args, **kwargs))

        return update_wrapper(call, body)


class verb(Generic[P, T]):  # noqa: N801  # reads as the decorator it is
    """Make a generator of steps a method: of `Blocking` a function, of `Awaiting` a coroutine."""

    def __init__(self, body: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self._body = body
        # One function for each kind of client, made when it is first asked for.
        self._made: dict[type, Callable[..., Any]] = {}

    @overload
    def __get__(self, client: None, owner: type) -> Callable[Concatenate[Any, P], Steps[T]]: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Blocking | Awaiting | None, owner: type) -> Callable[..., Any]:
        if client is None:
            return self._body  # what `help` and documentation look at
        made = self._made.get(owner)
        if made is None:
            made = self._made[owner] = client._verb(self._body)
        return MethodType(made, client)


class Arranged(NamedTuple):
    """How to do a work on a connection: what to run, and in whose transaction."""

    operation: Operation
    # Put a transaction of our own around it.
    wrapped: bool
    # It commits here, so a lost connection can hide that it did.
    commits: bool


def arranged(
    work: Work, raw: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], *, pinned: bool
) -> Arranged:
    """Decide how to do `work` on `raw`, where plan pins hold for the whole session if `pinned`."""
    operation = work.operation
    if work.connection is None:
        if pinned:
            return Arranged(operation, work.atomic, True)
        wrapped = work.atomic or work.pinned or not raw.autocommit
        return Arranged(_pinned(operation) if work.pinned else operation, wrapped, True)
    status = raw.info.transaction_status
    if status is TransactionStatus.INERROR:
        raise InvalidInput("the transaction of this connection has failed: roll it back first")
    if raw.autocommit and status is TransactionStatus.IDLE:
        return Arranged(operation, work.atomic, True)
    return Arranged(_undone(operation) if work.undone else operation, False, False)


# These speak of the transaction they run in and of no table, hence not in the store.
_PIN = Call(
    b"select set_config(u.name, u.setting, true)"
    b" from unnest(%(names)s::text[], %(settings)s::text[]) as u(name, setting)",
    {"names": list(PINS), "settings": list(PINS.values())},
)
_MARK = Call(b"savepoint orchestrator", {})
_UNDO = Call(b"rollback to savepoint orchestrator", {})
_KEEP = Call(b"release savepoint orchestrator", {})


def _pinned(operation: Operation) -> Operation:
    """Pin the plans until the transaction ends: the session and its other queries are not ours."""
    yield _PIN
    return (yield from operation)


def _undone(operation: Operation) -> Operation:
    """Take back what an operation wrote before it raised; a savepoint, so never on a hot path."""
    yield _MARK
    try:
        value = yield from operation
    except OrchestratorError:
        yield _UNDO
        raise
    yield _KEEP
    return value
