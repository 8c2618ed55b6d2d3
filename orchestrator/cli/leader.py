"""`leader`: who leads, and how a leader is made to let go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import output
from orchestrator.cli.setup import Setup
from orchestrator.cli.verb import AsJson, verb
from orchestrator.errors import InvalidInput, OrchestratorError, UnknownQueue

if TYPE_CHECKING:
    from orchestrator.store.leadership import Leadership


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    verb(
        app,
        "leader",
        "orchestrator leader",
        "orchestrator leader --resign --queue default",
    )(leader)


def leader(
    setup: Setup,
    queue: Annotated[str | None, typer.Option(help="Only this queue.")] = None,
    resign: Annotated[
        bool,
        typer.Option("--resign", help="End the leader's session; a replica is elected after it."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show who leads each queue, or make a leader let go."""
    from orchestrator.store import leadership
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        found: list[Leadership] = run(connection, leadership.leaders())
        chosen = [each for each in found if queue in (None, each.name)]
        if queue is not None and not chosen:
            raise UnknownQueue(f"no queue {queue!r}: `orchestrator queue list` names them")
        if not resign:
            _show(chosen, as_json)
            return
        one = _only_led(chosen)
        ended = run(connection, leadership.terminate(one.backend_pid))
    if not ended:
        raise OrchestratorError(f"the leader of {one.name!r} was gone already: look again")
    if as_json:
        output.document({"queue": one.name, "resigned": one.holder, "epoch": one.epoch})
    else:
        output.say(f"ended the session of {one.holder}, which led {one.name} in epoch {one.epoch}")


def _only_led(found: list[Leadership]) -> Leadership:
    """Return the only queue that is led; a wrong guess would cost a healthy queue its leader."""
    led = [each for each in found if each.alive]
    if not led:
        raise OrchestratorError("no leader to resign: `orchestrator run` starts a replica")
    if len(led) > 1:
        names = ", ".join(each.name for each in led)
        raise InvalidInput(f"several queues are led ({names}): name one with --queue")
    return led[0]


def _show(found: list[Leadership], as_json: bool) -> None:
    if as_json:
        output.document({"leaders": [describe(each) for each in found]})
        return
    output.table(
        ("queue", "leader", "epoch", "elected", "last heard of"),
        [
            (
                each.name,
                each.holder if each.alive else "nobody",
                each.epoch,
                each.elected_at if each.epoch else None,
                heard(each),
            )
            for each in found
        ],
    )


def describe(each: Leadership) -> dict[str, object]:
    """Return what `leader --json` and `status --json` tell of a leader."""
    return {
        "queue": each.name,
        "alive": each.alive,
        "holder": each.holder if each.alive else None,
        "epoch": each.epoch,
        "term": each.term,
        "timeline": each.timeline,
        "elected_at": each.elected_at if each.epoch else None,
        "last_seen_at": each.last_seen_at,
        "silent_s": each.silent_s,
    }


def heard(each: Leadership) -> str:
    """Return when the leader's session last spoke to the server, for people."""
    return "-" if each.silent_s is None else f"{output.age(each.silent_s)} ago"
