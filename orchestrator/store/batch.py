"""Many tasks of one queue at once: the plain cases of cancel and retry.

What is left over (claimed, held by somebody, not ended) is for `tasks.cancel` and `tasks.retry`,
which look again, wait, and say why. Both operations need a transaction of their own, and should be
given some hundred tasks: the leader waits for a row that is held here.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.store.names import doze_sequence, staged_channel
from orchestrator.store.sql import Operation, Statements

SQL = Statements("batch")


def cancel(queue: int, ids: Sequence[int], *, reason: str) -> Operation:
    """End those of the tasks that wait, staged, scheduled or ready; return the set of their ids."""
    yield SQL.call("steady")
    rows = yield SQL.call(
        "cancel_waiting", queue=queue, ids=list(ids), reason=reason, **_wake(queue)
    )
    return {row[0] for row in rows}


def retry(queue: int, ids: Sequence[int]) -> Operation:
    """Stage those of the tasks that have ended; return the set of their ids."""
    yield SQL.call("steady")
    yield SQL.call("lock_tasks", queue=queue, ids=list(ids))
    rows = yield SQL.call("restage_ended", queue=queue, ids=list(ids), **_wake(queue))
    return {row[0] for row in rows}


def _wake(queue: int) -> dict[str, str]:
    return {"channel": staged_channel(queue), "doze": doze_sequence(queue)}
