"""`schedule`: recurring tasks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import output, values
from orchestrator.cli.setup import Setup
from orchestrator.cli.verb import AsJson, group, verb
from orchestrator.model import DEFAULT_QUEUE, DEFAULT_WORKLOAD, PRIORITY_DEFAULT, TaskSpec

if TYPE_CHECKING:
    from orchestrator.store.schedules import Schedule

ScheduleName = Annotated[str, typer.Argument(metavar="NAME")]


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    schedule = group("schedule", "Recurring tasks, fired by the leader.", into=app)
    verb(schedule, "list", "orchestrator schedule list")(list_schedules)
    verb(
        schedule,
        "set",
        "orchestrator schedule set nightly --cron '30 2 * * *' --timezone Europe/Berlin \\",
        '    --task report --org acme --payload \'{"kind": "daily"}\'',
    )(set_schedule)
    verb(schedule, "remove", "orchestrator schedule remove nightly")(remove)


def list_schedules(setup: Setup, as_json: AsJson = False) -> None:
    """List the schedules, with when each fires next or why it was disabled."""
    from orchestrator.store import schedules
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        found: list[Schedule] = run(connection, schedules.list_schedules())
    if as_json:
        output.document({"schedules": [_document(each) for each in found]})
        return
    output.table(
        ("schedule", "cron", "time zone", "task", "org", "queue", "next", "last", "disabled"),
        [
            (
                each.name,
                each.cron,
                each.timezone,
                each.task_name,
                each.org,
                each.queue,
                None if each.disabled_at else each.next_run_at,
                each.last_run_at,
                each.disabled_reason,
            )
            for each in found
        ],
    )


def set_schedule(
    setup: Setup,
    name: ScheduleName,
    cron: Annotated[
        str, typer.Option(help="Five fields as in cron(5): minute hour day month weekday.")
    ],
    task: Annotated[str, typer.Option(help="Name of the task to enqueue.")],
    org: Annotated[str, typer.Option(help="The org it belongs to.")],
    timezone: Annotated[str, typer.Option(help="Whose clock the fields mean.")] = "UTC",
    payload: Annotated[
        str, typer.Option(metavar="JSON|@FILE|-", help="Its payload: JSON, a file, or stdin.")
    ] = "null",
    queue: Annotated[str, typer.Option(help="Its queue.")] = DEFAULT_QUEUE,
    workload: Annotated[str, typer.Option(help="Its workload.")] = DEFAULT_WORKLOAD,
    priority: Annotated[int, typer.Option(help="1 to 10, 10 first.")] = PRIORITY_DEFAULT,
    max_attempts: Annotated[int, typer.Option(help="Attempts before it is dead.")] = 5,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Longest run of one attempt.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create or replace a schedule; one that was disabled is enabled again."""
    from orchestrator.client.specs import encode, ready
    from orchestrator.store import schedules
    from orchestrator.store.orgs import check_name
    from orchestrator.store.sql import run

    limits = setup.settings.limits
    content = encode(values.payload(payload), limits.payload_bytes_max)
    schedule = schedules.Schedule(
        name=check_name("schedule", name),
        cron=cron,
        timezone=timezone,
        task_name=task,
        payload_text=content,
        org=org,
        queue=queue,
        workload=workload,
        priority=priority,
        max_attempts=max_attempts,
        timeout_s=values.duration("--timeout", timeout),
    )

    def check(spec: TaskSpec) -> None:
        ready(spec, limits)

    with setup.connection() as connection, connection.transaction():
        run(connection, schedules.set_schedule(schedule, check))
        every: list[Schedule] = run(connection, schedules.list_schedules())
    (stored,) = [each for each in every if each.name == name]
    if as_json:
        output.document({"schedule": _document(stored)})
    else:
        output.say(f"schedule {name} fires next at {output.cell(stored.next_run_at)}")


def remove(setup: Setup, name: ScheduleName) -> None:
    """Remove a schedule; the tasks it has enqueued stay."""
    from orchestrator.store import schedules
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        run(connection, schedules.remove_schedule(name))
    output.say(f"removed schedule {name}")


def _document(each: Schedule) -> dict[str, object]:
    fields = {name: getattr(each, name) for name in each.__dataclass_fields__}
    text = fields.pop("payload_text")
    return fields | {"payload": output.decoded(json.dumps(None) if text is None else text)}
