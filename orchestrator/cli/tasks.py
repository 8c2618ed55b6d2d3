"""`task`: find, cancel and retry tasks, one by id or many by what they have in common."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import output
from orchestrator.cli.setup import Setup
from orchestrator.cli.verb import AsJson, group, verb
from orchestrator.errors import InvalidInput
from orchestrator.model import DEFAULT_QUEUE, AttemptStatus, Place

if TYPE_CHECKING:
    from orchestrator.model import TaskInfo
    from orchestrator.store.tasks import TaskLine

# In `task show`, for people; --json has all of it.
_PAYLOAD_SHOWN_MAX = 2_000


class State(StrEnum):
    """Where an unfinished task is, or how one ended."""

    STAGED = "staged"
    SCHEDULED = "scheduled"
    READY = "ready"
    CLAIMED = "claimed"
    ENDED = "ended"
    SUCCEEDED = "succeeded"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"
    DEAD = "dead"

    @property
    def place(self) -> Place | None:
        """Return the place this names, if it names one."""
        return next((place for place in Place if place.value == self.value), None)

    @property
    def status(self) -> AttemptStatus | None:
        """Return the end this names, if it names one."""
        return None if self.place else AttemptStatus(self.value)


TaskIds = Annotated[list[int] | None, typer.Argument(metavar="[ID...]")]
InQueue = Annotated[str, typer.Option("--queue", help="Where to look.")]
OfOrg = Annotated[str | None, typer.Option("--org", help="Only of this org.")]
OfName = Annotated[str | None, typer.Option("--name", help="Only of this name.")]
InState = Annotated[
    State | None,
    typer.Option("--status", metavar="STATE", help=f"Only in one of: {', '.join(State)}."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell how many, change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    task = group("task", "Tasks: list, show, cancel, retry.", into=app)
    verb(
        task,
        "list",
        "orchestrator task list --org acme --status dead",
        "orchestrator task list --limit 20 --json",
    )(list_tasks)
    verb(task, "show", "orchestrator task show 4711")(show)
    verb(
        task,
        "cancel",
        "orchestrator task cancel 4711 4712",
        "orchestrator task cancel --org acme --name resize --dry-run",
        "orchestrator task cancel --org acme --older-than 10m --reason 'too late'",
    )(cancel)
    verb(
        task,
        "retry",
        "orchestrator task retry 4711",
        "orchestrator task retry --org acme --yes   # its dead letters",
    )(retry)


def list_tasks(
    setup: Setup,
    queue: InQueue = DEFAULT_QUEUE,
    org: OfOrg = None,
    name: OfName = None,
    status: InState = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 100,
    before: Annotated[int | None, typer.Option(help="Only ids below this: the next page.")] = None,
    as_json: AsJson = False,
) -> None:
    """List tasks, newest first."""
    from orchestrator.store import staging, tasks
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        lines: list[TaskLine] = run(
            connection,
            tasks.list_page(
                run(connection, staging.queue_id(queue)),
                org=org,
                name=name,
                place=status.place if status else None,
                status=status.status if status else None,
                before=tasks.BEFORE_ALL if before is None else before,
                limit=limit,
            ),
        )
    next_before = lines[-1].id if len(lines) == limit else None
    if as_json:
        output.document({"tasks": lines, "next_before": next_before})
        return
    output.table(
        ("id", "name", "org", "workload", "priority", "created", "state", "attempt"),
        [
            (
                str(line.id),
                line.name,
                line.org,
                line.workload,
                line.priority,
                line.created_at,
                line.status or line.place,
                line.attempt,
            )
            for line in lines
        ],
    )
    if next_before is not None:
        output.note(f"there may be more: --before {next_before}")


def show(
    setup: Setup, task_id: Annotated[int, typer.Argument(metavar="ID")], as_json: AsJson = False
) -> None:
    """Show one task: where it is, what it carries, and every attempt at it."""
    from orchestrator.store import tasks
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        info: TaskInfo = run(connection, tasks.get(task_id))
    if as_json:
        output.document({"task": _document(info)})
        return
    _show(info)


def cancel(
    setup: Setup,
    ids: TaskIds = None,
    queue: InQueue = DEFAULT_QUEUE,
    org: OfOrg = None,
    name: OfName = None,
    status: InState = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only what waits, enqueued longer ago than this: 10m."),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Kept in the task's history.", show_default=False)
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Cancel tasks: those that wait end at once, of those that run the worker is told.

    Without ids, cancels every unfinished task that fits --org, --name and --status. With
    --older-than, those that were enqueued longer ago and still wait: what runs is left alone.
    """
    from orchestrator.cli import batch, values
    from orchestrator.store.orgs import check_text

    age_s = values.duration("--older-than", older_than)
    if age_s is not None and status is State.CLAIMED:
        raise InvalidInput("--older-than is for what waits: leave out --status claimed")

    check_text("--reason", reason)
    if status is not None and (status.status or status is State.ENDED):
        raise InvalidInput(f"--status {status}: what has ended cannot be cancelled")
    named = _named(ids, org, name, status, older_than)
    with setup.connection() as connection:
        chosen = named or batch.unfinished(
            connection,
            queue,
            org=org,
            name=name,
            place=status.place if status else None,
            older_than_s=age_s,
        )
        if age_s is None:
            doing = batch.Cancelling(connection, reason or "cancelled by hand")
        else:
            doing = batch.Dropping(connection, reason or f"waited longer than {older_than}")
        within = None if named else queue
        batch.carry_out(doing, chosen, within, dry_run=dry_run, yes=yes, as_json=as_json)


def retry(
    setup: Setup,
    ids: TaskIds = None,
    queue: InQueue = DEFAULT_QUEUE,
    org: OfOrg = None,
    name: OfName = None,
    status: InState = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Stage ended tasks again, with their attempts counted anew.

    Without ids, retries every task that fits --org, --name and --status; dead ones unless told
    otherwise.
    """
    from orchestrator.cli import batch

    if status is not None and status.place not in (None, Place.ENDED):
        raise InvalidInput(f"--status {status}: only what has ended can be retried")
    named = _named(ids, org, name, status)
    with setup.connection() as connection:
        wanted = (status or State.DEAD).status
        chosen = named or batch.ended(connection, queue, org=org, name=name, status=wanted)
        doing = batch.Retrying(connection)
        within = None if named else queue
        batch.carry_out(doing, chosen, within, dry_run=dry_run, yes=yes, as_json=as_json)


def _named(ids: list[int] | None, *filters: str | None) -> list[int] | None:
    """Return the ids that were named, None if filters were; raise `InvalidInput` otherwise."""
    filtered = any(value is not None for value in filters)
    if ids and filtered:
        raise InvalidInput("give ids or filters, not both")
    if not ids and not filtered:
        raise InvalidInput("name the tasks: by id, or with --org, --name or --status")
    return ids or None


def _document(info: TaskInfo) -> dict[str, Any]:
    fields = {name: getattr(info, name) for name in info.__dataclass_fields__}
    return fields | {"payload": output.decoded(info.payload_text)}


def _show(info: TaskInfo) -> None:
    payload = info.payload_text
    if len(payload) > _PAYLOAD_SHOWN_MAX:
        payload = f"{payload[:_PAYLOAD_SHOWN_MAX]}… ({len(payload):,} characters, --json has all)"
    output.facts(
        {
            "task": str(info.id),
            "name": info.name,
            "org": info.org,
            "queue": info.queue,
            "workload": info.workload,
            "priority": info.priority,
            "state": info.status or info.place,
            "attempt": f"{info.attempt} of {info.max_attempts}",
            "created": info.created_at,
            "runs not before": info.run_at,
            "expires": info.expires_at,
            "timeout": None if info.timeout_s is None else output.age(info.timeout_s),
            "idempotency key": info.idempotency_key,
            "worker": info.worker,
            "lease until": info.lease_expires_at,
            "headers": ", ".join(f"{key}={value}" for key, value in info.headers.items()) or None,
            "payload": payload,
        }
    )
    if info.history:
        output.say("")
        output.table(
            ("attempt", "status", "claimed", "ended", "ran", "worker", "error"),
            [
                (
                    a.attempt,
                    a.status,
                    a.claimed_at,
                    a.ended_at,
                    output.age(a.cost_s),
                    a.worker,
                    a.error,
                )
                for a in info.history
            ],
        )
