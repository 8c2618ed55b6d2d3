"""Cancel and retry: one task, or many that were chosen by a filter."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from orchestrator.cli import output
from orchestrator.errors import (
    IdempotencyConflict,
    InvalidInput,
    OrchestratorError,
    TaskNotFound,
    TaskUnfinished,
)
from orchestrator.model import AttemptStatus, CancelOutcome, Place

if TYPE_CHECKING:
    from psycopg import Connection

    from orchestrator.store.sql import Operation

# Downstream: what moves on while we look is met again at its next place.
_PATH = (Place.SCHEDULED, Place.STAGED, Place.READY, Place.CLAIMED)
_PAGE = 1_000
# Tasks changed in one transaction: the leader waits for a row that is held here, so not too many.
_CHUNK = 200
_SHOWN_MAX = 10


def unfinished(
    connection: Connection[Any],
    queue: str,
    *,
    org: str | None,
    name: str | None,
    place: Place | None,
    older_than_s: float | None = None,
) -> list[int]:
    """Return the ids of unfinished tasks that fit; with `older_than_s`, only of those that wait."""
    from orchestrator.store import staging, status
    from orchestrator.store.sql import run

    queue_id = run(connection, staging.queue_id(queue))
    found: dict[int, None] = {}
    path = _PATH if older_than_s is None else _PATH[:-1]
    for each in (place,) if place else path:
        fitting = status.unfinished(queue_id, each, org=org, name=name, older_than_s=older_than_s)
        ids = run(connection, fitting)
        found.update(dict.fromkeys(ids))
    return list(found)


def ended(
    connection: Connection[Any],
    queue: str,
    *,
    org: str | None,
    name: str | None,
    status: AttemptStatus | None,
) -> list[int]:
    """Return the ids of ended tasks that fit, newest first."""
    from orchestrator.store import staging, tasks
    from orchestrator.store.sql import run

    queue_id = run(connection, staging.queue_id(queue))
    found: list[int] = []
    while True:
        page = run(
            connection,
            tasks.list_page(
                queue_id,
                org=org,
                name=name,
                place=Place.ENDED,
                status=status,
                before=found[-1] if found else tasks.BEFORE_ALL,
                limit=_PAGE,
            ),
        )
        found.extend(line.id for line in page)
        if len(page) < _PAGE:
            return found


class Doing(ABC):
    """Does one thing to many tasks, and counts how each was met."""

    verb: str
    #: Whether one task needs a transaction; whoever stops within one may hold up the leader.
    atomic: bool

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        self.counts: Counter[str] = Counter(dict.fromkeys(self.outcomes(), 0))

    @abstractmethod
    def outcomes(self) -> tuple[str, ...]:
        """Return how a task can be met, first what is wanted and last that it cannot be done."""

    @abstractmethod
    def at_once(self, queue: int, ids: Sequence[int]) -> Operation:
        """Do it to those of the tasks where it is simple; return the set of their ids."""

    @abstractmethod
    def singly(self, task_id: int) -> Operation:
        """Do it to one task, however it is met; return how that was, None for as wanted."""

    @abstractmethod
    def summary(self) -> str:
        """Return the counts as a line for people."""

    def many(self, queue: str, ids: Sequence[int]) -> None:
        """Do it to tasks of one queue that a filter chose."""
        from orchestrator.store import staging
        from orchestrator.store.sql import run

        queue_id = run(self._connection, staging.queue_id(queue))
        for chunk in _chunks(self.verb, ids):
            with self._connection.transaction():
                done = run(self._connection, self.at_once(queue_id, chunk))
            self.counts[self.outcomes()[0]] += len(done)
            self.each([task_id for task_id in chunk if task_id not in done])

    def each(self, ids: Sequence[int]) -> OrchestratorError | None:
        """Do it to tasks one by one; return the first reason why it could not be done."""
        from orchestrator.store.sql import run

        failure: OrchestratorError | None = None
        for task_id in ids:
            try:
                with self._connection.transaction() if self.atomic else nullcontext():
                    outcome = run(self._connection, self.singly(task_id))
                self.counts[outcome or self.outcomes()[0]] += 1
            except (TaskNotFound, TaskUnfinished, IdempotencyConflict) as error:
                self.counts[self.outcomes()[-1]] += 1
                failure = failure or error
        return failure


class Cancelling(Doing):
    """Cancels tasks."""

    verb = "cancel"
    atomic = False

    def __init__(self, connection: Connection[Any], reason: str) -> None:
        super().__init__(connection)
        self._reason = reason

    def outcomes(self) -> tuple[str, ...]:
        """Return what `cancel` can find, and that there is no such task."""
        return *map(str, CancelOutcome), "unknown"

    def at_once(self, queue: int, ids: Sequence[int]) -> Operation:
        """Cancel those that wait."""
        from orchestrator.store import batch

        return batch.cancel(queue, ids, reason=self._reason)

    def singly(self, task_id: int) -> Operation:
        """Cancel a task wherever it is."""
        from orchestrator.store import tasks

        return tasks.cancel(task_id, reason=self._reason)

    def summary(self) -> str:
        """Return the counts as a line for people."""
        cancelled, requested, ended_before = (self.counts[each] for each in CancelOutcome)
        return (
            f"{cancelled:,} cancelled, {requested:,} running asked to stop, "
            f"{ended_before:,} had ended"
        )


class Dropping(Cancelling):
    """Cancels tasks that have waited too long, and leaves alone what moved on meanwhile."""

    verb = "drop"

    def outcomes(self) -> tuple[str, ...]:
        """Return that it was cancelled, or does not wait any more."""
        return str(CancelOutcome.CANCELLED), "left"

    def each(self, ids: Sequence[int]) -> OrchestratorError | None:
        """Leave those that do not wait: claimed a moment ago, they are not stale."""
        self.counts["left"] += len(ids)
        return None

    def summary(self) -> str:
        """Return the counts as a line for people."""
        cancelled, left = self.counts.values()
        return f"{cancelled:,} cancelled, {left:,} left: they moved on meanwhile"


class Retrying(Doing):
    """Stages ended tasks again."""

    verb = "retry"
    atomic = True

    def outcomes(self) -> tuple[str, ...]:
        """Return that it is staged, or cannot be."""
        return "staged", "refused"

    def at_once(self, queue: int, ids: Sequence[int]) -> Operation:
        """Stage those that have ended."""
        from orchestrator.store import batch

        return batch.retry(queue, ids)

    def singly(self, task_id: int) -> Operation:
        """Stage a task, or say why not."""
        from orchestrator.store import tasks

        return tasks.retry(task_id)

    def summary(self) -> str:
        """Return the counts as a line for people."""
        return f"{self.counts['staged']:,} staged again, {self.counts['refused']:,} refused"


def carry_out(
    doing: Doing,
    ids: Sequence[int],
    queue: str | None,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Do it to `ids`, which a filter chose in `queue` or, without one, were named; then report.

    Raises the first reason why it could not be done to a task that was named.
    """
    if dry_run:
        _announce(doing.verb, ids, as_json=as_json)
        return
    if queue is None:
        failure = doing.each(ids)
    elif yes or not ids or _agreed(doing.verb, len(ids)):
        failure = None
        doing.many(queue, ids)
    else:
        return
    if as_json:
        output.document(doing.counts)
    else:
        output.say(doing.summary())
    if failure is not None:
        raise failure


def _announce(verb: str, ids: Sequence[int], *, as_json: bool) -> None:
    if as_json:
        output.document({"dry_run": True, "count": len(ids), "ids": ids})
        return
    first = ", ".join(map(str, ids[:_SHOWN_MAX]))
    more = ", …" if len(ids) > _SHOWN_MAX else ""
    output.say(f"would {verb} {len(ids):,} tasks{': ' if ids else ''}{first}{more}")


def _agreed(verb: str, count: int) -> bool:
    if not sys.stdin.isatty():
        raise InvalidInput(f"{count:,} tasks fit: look with --dry-run, then add --yes")
    output.note(f"{verb} {count:,} tasks? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _chunks(verb: str, ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield `ids` in chunks, with a progress bar where a person waits for many of them."""
    starts = range(0, len(ids), _CHUNK)
    if len(ids) < _PAGE or not sys.stderr.isatty():
        yield from (ids[start : start + _CHUNK] for start in starts)
        return
    from rich.console import Console
    from rich.progress import track

    for start in track(starts, verb, console=Console(stderr=True), transient=True):
        yield ids[start : start + _CHUNK]
