"""`grant`: database roles with no more privileges than their verbs need."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator.cli import output
from orchestrator.cli.setup import Setup, actor
from orchestrator.cli.verb import verb
from orchestrator.store.privileges import DatabaseRole


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    verb(
        app,
        "grant",
        "orchestrator grant --role worker resizer",
        "orchestrator grant --role producer --role reader shop",
        "orchestrator grant --role orchestrator --harden replica --sql   # for a DBA",
    )(grant)


def grant(
    setup: Setup,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The database role.")],
    role: Annotated[
        list[DatabaseRole], typer.Option("--role", help="What it is for; repeat for several.")
    ],
    harden: Annotated[
        bool,
        typer.Option(
            "--harden",
            help="Take advisory locks and temporary tables from everybody else in the database.",
        ),
    ] = False,
    pins: Annotated[
        bool,
        typer.Option(help="Keep the plan settings of queue connections in a worker's role."),
    ] = True,
    sql: Annotated[bool, typer.Option("--sql", help="Print the statements, run nothing.")] = False,
) -> None:
    """Give a database role exactly what it needs, and take what an earlier grant gave."""
    from orchestrator.store import roles
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        if sql:
            for step in run(connection, roles.steps(name, role, pins=pins, harden=harden)):
                sys.stdout.write(f"{step.sql};\n")
            return
        refused = roles.grant(connection, name, role, pins=pins, harden=harden, actor=actor())
    output.say(f"{name} is {' and '.join(sorted(set(map(str, role))))}, and nothing else")
    for line in refused:
        output.note(f"not done: {line}")
