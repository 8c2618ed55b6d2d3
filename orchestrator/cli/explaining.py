"""`explain`: why a task waits, and when it may be expected to start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import output
from orchestrator.cli.setup import Setup
from orchestrator.cli.verb import AsJson, verb

if TYPE_CHECKING:
    from orchestrator.model import Explanation


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    verb(app, "explain", "orchestrator explain 4711", "orchestrator explain 4711 --json")(explain)


def explain(
    setup: Setup, task_id: Annotated[int, typer.Argument(metavar="ID")], as_json: AsJson = False
) -> None:
    """Tell why a task waits: the reasons in the order in which they bind, what would unblock it,
    and when it may be expected to start.
    """
    from orchestrator.store import explain as store
    from orchestrator.store.sql import run

    with setup.connection() as connection, connection.transaction():
        explanation: Explanation = run(connection, store.explain(task_id))
    if as_json:
        output.document({"explanation": explanation})
        return
    _show(explanation)


def _show(explanation: Explanation) -> None:
    output.facts(
        {
            "task": str(explanation.id),
            "org": explanation.org,
            "queue": explanation.queue,
            "workload": explanation.workload,
            "state": explanation.place,
            "as of": explanation.at,
            "expected start": _expected(explanation),
        }
    )
    output.say("")
    for number, reason in enumerate(explanation.reasons, 1):
        output.say(f"{number}. {reason.kind}: {reason.text}")
        if reason.unblock:
            output.say(f"   {reason.unblock}")


def _expected(explanation: Explanation) -> str | None:
    """Return the expectation in seconds from now on, with its interval and where it comes from."""
    at = explanation.expected_start_at
    low, high = explanation.expected_start_low_at, explanation.expected_start_high_at
    if at is None or low is None or high is None:
        return None
    wait, soon, late = (
        output.age((moment - explanation.at).total_seconds()) for moment in (at, low, high)
    )
    rate = explanation.rate_per_s or 0.0
    return (
        f"in {wait} ({explanation.probability:.0%} between {soon} and {late}; "
        f"{explanation.starts_ahead:,} starts before it, {rate:,.1f} a second)"
    )
