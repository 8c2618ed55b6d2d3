"""Cancel and retry for many tasks.

Each task is its own transaction: a long one would hold rows that the leader wants to move, and
admission of everybody would wait for an operator's batch.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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

# Downstream: what moves on while we look is met again at its next place.
_PATH = (Place.SCHEDULED, Place.STAGED, Place.READY, Place.CLAIMED)
_PAGE = 1_000
_SHOWN_MAX = 10


def unfinished(
    connection: Connection[Any],
    queue: str,
    *,
    org: str | None,
    name: str | None,
    place: Place | None,
) -> list[int]:
    """Return the ids of unfinished tasks that fit."""
    from orchestrator.store import staging, status
    from orchestrator.store.sql import run

    queue_id = run(connection, staging.queue_id(queue))
    found: dict[int, None] = {}
    for each in (place,) if place else _PATH:
        ids = run(connection, status.unfinished(queue_id, each, org=org, name=name))
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


def agreed(
    verb: str, ids: Sequence[int], *, many: bool, dry_run: bool, yes: bool, as_json: bool
) -> bool:
    """Tell whether to go on; say what would be done, and ask where a filter chose the tasks."""
    if dry_run:
        if as_json:
            output.document({"dry_run": True, "count": len(ids), "ids": ids})
        else:
            first = ", ".join(map(str, ids[:_SHOWN_MAX]))
            more = ", …" if len(ids) > _SHOWN_MAX else ""
            output.say(f"would {verb} {len(ids):,} tasks{': ' if ids else ''}{first}{more}")
        return False
    if not many or yes or not ids:
        return True
    if not sys.stdin.isatty():
        raise InvalidInput(f"{len(ids):,} tasks fit: look with --dry-run, then add --yes")
    output.note(f"{verb} {len(ids):,} tasks? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def cancel(
    connection: Connection[Any], ids: Sequence[int], *, reason: str, one_by_one: bool, as_json: bool
) -> None:
    """Cancel the tasks and report how each was met; raise where a named one does not exist."""
    from orchestrator.store import tasks
    from orchestrator.store.sql import run

    counts: Counter[str] = Counter({str(outcome): 0 for outcome in CancelOutcome} | {"gone": 0})
    failure: OrchestratorError | None = None
    for task_id in _shown("cancelling", ids):
        try:
            with connection.transaction():
                counts[run(connection, tasks.cancel(task_id, reason=reason))] += 1
        except TaskNotFound as error:
            counts["gone"] += 1
            failure = failure or error
    if as_json:
        output.document(counts)
    else:
        output.say(
            f"{counts['cancelled']:,} cancelled, {counts['requested']:,} running asked to stop, "
            f"{counts['ended']:,} had ended"
        )
    if one_by_one and failure is not None:
        raise failure


def retry(
    connection: Connection[Any], ids: Sequence[int], *, one_by_one: bool, as_json: bool
) -> None:
    """Stage the tasks again and report; raise where a named one cannot be."""
    from orchestrator.store import tasks
    from orchestrator.store.sql import run

    counts: Counter[str] = Counter({"staged": 0, "refused": 0})
    failure: OrchestratorError | None = None
    for task_id in _shown("retrying", ids):
        try:
            with connection.transaction():
                run(connection, tasks.retry(task_id))
                counts["staged"] += 1
        except (TaskNotFound, TaskUnfinished, IdempotencyConflict) as error:
            counts["refused"] += 1
            failure = failure or error
    if as_json:
        output.document(counts)
    else:
        output.say(f"{counts['staged']:,} staged again, {counts['refused']:,} refused")
    if failure is not None and (one_by_one or not counts["staged"]):
        raise failure


def _shown(doing: str, ids: Sequence[int]) -> Iterable[int]:
    """Return `ids`, with a progress bar where a person waits for many of them."""
    if len(ids) < _PAGE or not sys.stderr.isatty():
        return ids
    return _with_bar(doing, ids)


def _with_bar(doing: str, ids: Sequence[int]) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import track

    yield from track(ids, doing, console=Console(stderr=True), transient=True)
