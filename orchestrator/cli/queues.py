"""`queue`: the lanes of work, and how admission to one is stopped."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import output, values
from orchestrator.cli.setup import Setup, actor
from orchestrator.cli.verb import AsJson, group, verb
from orchestrator.errors import OrchestratorError
from orchestrator.model import CostMode, Policy

if TYPE_CHECKING:
    from psycopg import Connection

    from orchestrator.model import QueueConfig

QueueName = Annotated[str, typer.Argument(metavar="QUEUE")]

# How often a draining queue is looked at, and how often that is told where no terminal shows it.
_POLL_S = 0.2
_TELL_S = 5.0


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    queue = group("queue", "Lanes of work: policy, capacity, pauses.", into=app)
    verb(queue, "list", "orchestrator queue list")(list_queues)
    verb(
        queue,
        "set",
        "orchestrator queue set renders --capacity 64",
        "orchestrator queue set renders --express-reserve 8 --headroom 2",
        "orchestrator queue set default --policy strict --max-wait 15m",
    )(set_queue)
    verb(queue, "pause", "orchestrator queue pause renders")(pause)
    verb(queue, "resume", "orchestrator queue resume renders")(resume)
    verb(queue, "drain", "orchestrator queue drain renders --timeout 10m")(drain)


def list_queues(setup: Setup, as_json: AsJson = False) -> None:
    """List the queues, each with what is ready and claimed."""
    from orchestrator.store import leadership, orgs
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        queues: list[QueueConfig] = run(connection, leadership.queues())
        loads = [run(connection, orgs.queue_in_flight(queue)) for queue in queues]
    _show(queues, loads, as_json)


def set_queue(
    setup: Setup,
    queue: QueueName,
    policy: Annotated[
        Policy | None, typer.Option(help="Fair by weight, or strictly by rank.")
    ] = None,
    cost_mode: Annotated[
        CostMode | None, typer.Option(help="Charge worker time, or one unit for every task.")
    ] = None,
    capacity: Annotated[
        str | None, typer.Option(metavar="N|none", help="Most tasks in flight of all orgs.")
    ] = None,
    headroom: Annotated[
        str | None,
        typer.Option(metavar="X|none", help="An org may hold X times what the capacity has left."),
    ] = None,
    express_reserve: Annotated[
        str | None,
        typer.Option(metavar="N|none", help="Slots only express work may use; none: a tenth."),
    ] = None,
    ready_max: Annotated[
        str | None, typer.Option(metavar="N|none", help="Most admitted tasks that no worker has.")
    ] = None,
    kappa: Annotated[
        int | None,
        typer.Option(help="How far priority reaches: no task is overtaken by more than 9 kappa."),
    ] = None,
    max_wait: Annotated[
        str | None,
        typer.Option(metavar="TIME|none", help="Lift what waited longer to the top of its flow."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create or change a queue; what is not given stays as it is."""
    from orchestrator.store import orgs
    from orchestrator.store.sql import run

    operation = orgs.set_queue(
        queue,
        policy=policy,
        cost_mode=cost_mode,
        capacity=values.given("--capacity", capacity, values.number_or_none),
        headroom=values.given("--headroom", headroom, values.decimal_or_none),
        express_reserve=values.given("--express-reserve", express_reserve, values.number_or_none),
        ready_max=values.given("--ready-max", ready_max, values.number_or_none),
        kappa=kappa,
        max_wait_s=values.given("--max-wait", max_wait, values.duration_or_none),
        actor=actor(),
    )
    with setup.connection() as connection, connection.transaction():
        config = run(connection, operation)
    _show([config], None, as_json)


def pause(setup: Setup, queue: QueueName, as_json: AsJson = False) -> None:
    """Stop admission to a queue; what is admitted runs on, what is enqueued waits."""
    with setup.connection() as connection:
        _show([_pause(connection, queue, paused=True)], None, as_json)


def resume(setup: Setup, queue: QueueName, as_json: AsJson = False) -> None:
    """Admit to a queue again."""
    with setup.connection() as connection:
        _show([_pause(connection, queue, paused=False)], None, as_json)


def drain(
    setup: Setup,
    queue: QueueName,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Give up after this; the pause stays.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pause a queue, then wait until nothing of it is in flight."""
    limit_s = values.duration("--timeout", timeout)
    started = time.monotonic()
    with setup.connection() as connection:
        config = _pause(connection, queue, paused=True)
        left = _await_empty(connection, config, None if limit_s is None else started + limit_s)
    spent_s = time.monotonic() - started
    if as_json:
        output.document(
            {"queue": queue, "drained": left == 0, "in_flight": left, "waited_s": round(spent_s, 3)}
        )
    if left:
        raise OrchestratorError(
            f"{left:,} tasks of queue {queue!r} are still in flight after {output.age(spent_s)}; "
            f"it stays paused: wait longer, or `orchestrator queue resume {queue}`"
        )
    if not as_json:
        output.say(
            f"queue {queue} is drained and stays paused: `orchestrator queue resume {queue}`"
        )


def _await_empty(connection: Connection[Any], queue: QueueConfig, deadline: float | None) -> int:
    """Return how many tasks are in flight once none is, or when the deadline has passed."""
    from orchestrator.store import orgs
    from orchestrator.store.sql import run

    told_at, told = 0.0, -1
    while True:
        ready, claimed = run(connection, orgs.queue_in_flight(queue))
        now = time.monotonic()
        if ready + claimed == 0 or (deadline is not None and now >= deadline):
            return int(ready + claimed)
        if now - told_at >= _TELL_S and ready + claimed != told:
            output.note(f"{ready:,} ready and {claimed:,} claimed tasks to go")
            told_at, told = now, ready + claimed
        time.sleep(_POLL_S)


def _pause(connection: Connection[Any], queue: str, *, paused: bool) -> QueueConfig:
    from orchestrator.store import orgs
    from orchestrator.store.sql import run

    with connection.transaction():
        config: QueueConfig = run(connection, orgs.pause_queue(queue, paused=paused, actor=actor()))
    return config


def _show(queues: list[QueueConfig], loads: list[tuple[int, int]] | None, as_json: bool) -> None:
    if as_json:
        documents: list[dict[str, Any]] = [
            {
                "name": queue.name,
                "policy": queue.policy,
                "cost_mode": queue.cost_mode,
                "capacity": queue.capacity,
                "headroom": queue.headroom,
                "express_reserve": queue.express_reserve,
                "ready_max": queue.ready_max,
                "kappa": queue.kappa,
                "max_wait_s": queue.max_wait_s,
                "paused": queue.paused,
            }
            for queue in queues
        ]
        for entry, (ready, claimed) in zip(documents, loads or (), strict=False):
            entry |= {"ready": ready, "claimed": claimed}
        output.document({"queues": documents})
        return
    columns = ["queue", "policy", "cost", "capacity", "ready_max", "kappa", "max_wait", "paused"]
    rows: list[list[object]] = [
        [
            queue.name,
            queue.policy,
            queue.cost_mode,
            queue.capacity,
            queue.ready_max,
            queue.kappa,
            None if queue.max_wait_s is None else output.age(queue.max_wait_s),
            queue.paused,
        ]
        for queue in queues
    ]
    if loads is not None:
        columns += ["ready", "claimed"]
        rows = [[*row, *load] for row, load in zip(rows, loads, strict=True)]
    output.table(columns, rows)
