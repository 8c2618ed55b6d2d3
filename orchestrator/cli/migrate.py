"""`migrate`: the schema this version needs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator.cli import output, values
from orchestrator.cli.setup import Setup
from orchestrator.cli.verb import verb
from orchestrator.errors import DatabaseUnavailable

# A server that answers, if only to say no, is not worth waiting for, unless it is about to change
# its mind. Only the text tells: a connection that failed has no SQLSTATE.
_ANSWERED = "FATAL"
_STARTING = ("starting up", "shutting down", "recovery")
_PAUSE_MAX_S = 2.0


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    verb(
        app,
        "migrate",
        "orchestrator migrate",
        "orchestrator migrate --sql > schema.sql   # for a DBA to read and run",
    )(migrate)


def migrate(
    setup: Setup,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL that creates the schema, run nothing.")
    ] = False,
    wait: Annotated[
        str, typer.Option(metavar="TIME", help="How long to wait for a server that is starting.")
    ] = "30s",
) -> None:
    """Bring the database's schema up to date; many may do so at once."""
    patience_s = values.duration("--wait", wait) or 0.0
    if sql:
        from orchestrator.store.migrate import script

        sys.stdout.write(script())
        return
    with setup.database() as dsn:
        await_server(setup, dsn, patience_s)
        bring_up_to_date(dsn)


def bring_up_to_date(dsn: str) -> None:
    """Migrate and say what happened."""
    from orchestrator.store.migrate import head, upgrade

    done = upgrade(dsn)
    output.say(f"the schema is {'now' if done else 'already'} at {head()}")


def await_server(setup: Setup, dsn: str, patience_s: float) -> None:
    """Return once the server takes connections; raise `DatabaseUnavailable` after `patience_s`."""
    import stamina

    # It would log each attempt; one line for people is enough.
    stamina.instrumentation.set_on_retry_hooks([])
    told = False
    for attempt in stamina.retry_context(
        on=_may_be_starting,
        attempts=None if patience_s > 0 else 1,
        timeout=patience_s or None,
        wait_max=_PAUSE_MAX_S,
    ):
        with attempt:
            try:
                setup.connect(dsn).close()
            except DatabaseUnavailable as error:
                if not told and patience_s > 0 and _may_be_starting(error):
                    output.note(f"waiting up to {output.age(patience_s)}: {error}")
                    told = True
                raise


def _may_be_starting(error: Exception) -> bool:
    reason = str(error)
    return isinstance(error, DatabaseUnavailable) and (
        _ANSWERED not in reason or any(word in reason for word in _STARTING)
    )
