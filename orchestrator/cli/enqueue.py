"""`enqueue`: one task from the command line, or any number from a file."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli import output, values
from orchestrator.cli.setup import Setup, actor
from orchestrator.cli.verb import AsJson, verb
from orchestrator.errors import InvalidInput
from orchestrator.model import DEFAULT_QUEUE, DEFAULT_WORKLOAD, Urgency


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    verb(
        app,
        "enqueue",
        "orchestrator enqueue resize --org acme --payload '{\"image\": 17}'",
        "orchestrator enqueue report --org acme --delay 10m --idempotency-key report-2026-05",
        "orchestrator enqueue stop --org acme --urgency critical",
        "orchestrator enqueue notify --org acme --urgency info --expires-in 5m",
        "orchestrator enqueue --from tasks.jsonl --dry-run",
        "some-program | orchestrator enqueue --from - --org acme",
    )(enqueue)


def enqueue(
    setup: Setup,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which handler it is for.")
    ] = None,
    org: Annotated[str | None, typer.Option(help="The tenant it belongs to.")] = None,
    payload: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE|-", help="JSON, a file of it, or stdin.")
    ] = None,
    queue: Annotated[str, typer.Option(help="The lane of work.")] = DEFAULT_QUEUE,
    workload: Annotated[str, typer.Option(help="Class of the org's own work.")] = DEFAULT_WORKLOAD,
    priority: Annotated[int | None, typer.Option(help="1 to 10, 10 first; 5 unless given.")] = None,
    run_at: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="Not before 2026-05-01T09:30:00Z.")
    ] = None,
    delay: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before so long from now: 30s, 5m, 2h.")
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="Not to be started after this.")
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not to be started after so long from now.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="At most one unfinished task of the org has this key.")
    ] = None,
    max_attempts: Annotated[int, typer.Option(help="Attempts before it is dead.")] = 5,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Longest run of one attempt.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Beside the payload; repeatable.")
    ] = None,
    critical: Annotated[
        bool, typer.Option("--critical", help="First in its org; may have a running task yield.")
    ] = False,
    urgency: Annotated[
        Urgency | None, typer.Option(help="Instead of a priority: 10, 5 or 1.")
    ] = None,
    with_depth: Annotated[
        bool, typer.Option("--with-depth", help="Tell how many tasks of the org wait.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE|-",
            help="JSON lines; NAME and options fill in what a line lacks.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --from: check every line, store nothing.")
    ] = False,
    skip: Annotated[int, typer.Option(min=0, help="With --from: go on after so many lines.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Enqueue one task, or with --from one for each line of a file.

    A line is an object with the keys of a task: {"name": "resize", "org": "acme", "payload": …}.
    Lines are stored in chunks; a wrong one is named, and nothing of its chunk is stored.
    """
    given: dict[str, Any] = {
        "name": name,
        "org": org,
        "queue": queue,
        "workload": workload,
        "run_at": values.instant("--run-at", run_at),
        "delay": values.duration("--delay", delay),
        "expires_at": values.instant("--expires-at", expires_at),
        "max_attempts": max_attempts,
        "timeout_s": values.duration("--timeout", timeout),
        "headers": _headers(header),
        "critical": critical,
        "expires_in": values.duration("--expires-in", expires_in),
        "urgency": urgency,
    }
    if priority is not None:
        given["priority"] = priority
    if payload is not None:
        given["payload"] = values.payload(payload)
    if source is None:
        if dry_run or skip:
            raise InvalidInput("--dry-run and --skip belong to --from FILE")
        _one(setup, given, idempotency_key, with_depth=with_depth, as_json=as_json)
        return
    if idempotency_key is not None or with_depth:
        raise InvalidInput(
            "with --from, give idempotency_key on each line; --with-depth is for one"
        )
    from orchestrator.cli import enqueue_file

    enqueue_file.enqueue(setup, source, given, skip=skip, dry_run=dry_run, as_json=as_json)


def _one(
    setup: Setup, given: dict[str, Any], key: str | None, *, with_depth: bool, as_json: bool
) -> None:
    for required, hint in (("name", "orchestrator enqueue NAME --org ORG"), ("org", "--org ORG")):
        if given[required] is None:
            raise InvalidInput(f"the task needs its {required}: {hint}")
    from orchestrator.client import Client

    name, payload = given.pop("name"), given.pop("payload", None)
    with (
        setup.fitting_database() as dsn,
        Client(dsn, settings=setup.settings, name=actor()) as client,
    ):
        done = client.enqueue(name, payload, **given, idempotency_key=key, with_depth=with_depth)
    if as_json:
        output.document({"id": done.id, "created": done.created, "depth": done.depth})
        return
    was = "enqueued task" if done.created else "the key is held by the unfinished task"
    depth = "" if done.depth is None else f"; {done.depth:,} of {given['org']} wait"
    output.say(f"{was} {done.id}{depth}")


def _headers(pairs: list[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    headers = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InvalidInput(f"--header {pair!r}: write KEY=VALUE")
        headers[key] = value
    return headers
