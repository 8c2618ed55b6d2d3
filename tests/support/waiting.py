"""Waiting for a condition with a deadline, instead of for an amount of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from psycopg import Connection

PATIENCE_S = 20.0
_POLL_S = 0.002

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, *, patience_s: float = PATIENCE_S) -> T:
    """Return the first true answer of `condition`; raise `TimeoutError` naming `what` it was."""
    deadline = time.monotonic() + patience_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {patience_s:g} s: {what}")
        time.sleep(_POLL_S)
    return answer


def pid_of(connection: Connection[Any]) -> int:
    """Return the pid of the backend behind `connection`."""
    return connection.info.backend_pid


def blockers(observer: Connection[Any], waiter: Connection[Any]) -> list[int]:
    """Return the pids of the backends that `waiter` waits for."""
    row = observer.execute("select pg_blocking_pids(%s)", [pid_of(waiter)]).fetchone()
    assert row is not None
    return list(row[0])


def until_blocked(
    observer: Connection[Any],
    waiter: Connection[Any],
    *,
    by: Connection[Any] | None = None,
    patience_s: float = PATIENCE_S,
) -> None:
    """Return once `waiter` waits for a lock (which `by` holds, if given)."""

    def blocked() -> bool:
        found = blockers(observer, waiter)
        return bool(found) if by is None else pid_of(by) in found

    until(blocked, "a statement waits for the lock", patience_s=patience_s)
