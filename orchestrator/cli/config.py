"""`config`: what is in force, and where it came from."""

from __future__ import annotations

import typer

from orchestrator.cli import output
from orchestrator.cli.setup import Setup
from orchestrator.cli.verb import AsJson, group, verb


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    config = group("config", "Settings: from flags, environment, file and defaults.", into=app)
    verb(config, "show", "orchestrator config show")(show)
    verb(config, "check", "orchestrator config check --config orchestrator.toml")(check)


def show(setup: Setup, as_json: AsJson = False) -> None:
    """Show every setting with its value and where it came from; passwords are hidden."""
    from orchestrator.config import describe, variable

    found = describe(setup.settings)
    if as_json:
        output.document({each.key: {"value": each.value, "origin": each.origin} for each in found})
        return
    output.table(
        ("setting", "value", "from", "variable"),
        [(each.key, _text(each.value), each.origin, variable(each.key)) for each in found],
    )


def check(setup: Setup, as_json: AsJson = False) -> None:
    """Check the settings without touching a database; exit 2 if anything is wrong with them."""
    named = setup.settings.database.url is not None
    if as_json:
        output.document({"ok": True, "database_named": named})
        return
    output.say("the settings are fine")
    if not named:
        output.note("no database is named yet: set DATABASE_URL, give --dsn or use --embedded")


def _text(value: object) -> object:
    if isinstance(value, tuple):
        return ", ".join(value) or "-"
    return f"{value:g}" if isinstance(value, float) else value if value is None else str(value)
