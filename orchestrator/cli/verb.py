"""How a verb is registered: with the options every verb has, and with examples in its help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, cast, get_type_hints

import typer

from orchestrator.cli.setup import Setup

P = ParamSpec("P")
Verb = Callable[Concatenate[Setup, P], None]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

_Dsn = Annotated[
    str | None,
    typer.Option(
        "--dsn",
        metavar="DSN",
        help="PostgreSQL to work on; DATABASE_URL keeps passwords out of ps.",
    ),
]
_Embedded = Annotated[
    bool, typer.Option("--embedded", help="Use the private PostgreSQL in your data directory.")
]
_Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings file, instead of ./orchestrator.toml if it exists.",
    ),
]
_Debug = Annotated[bool, typer.Option("--debug", hidden=True)]  # read where errors are printed


def _common(
    dsn: _Dsn = None, embedded: _Embedded = False, config: _Config = None, debug: _Debug = False
) -> None:
    """Carry the signature of the options that every verb has."""


def group(name: str, help_text: str, *, into: typer.Typer) -> typer.Typer:
    """Return a new group of verbs inside `into`."""
    made = typer.Typer(help=help_text, rich_markup_mode=None)
    into.add_typer(made, name=name)
    return made


def verb(app: typer.Typer, name: str, *examples: str) -> Callable[[Verb[P]], Verb[P]]:
    """Register a function as the verb `name`; its first parameter becomes its `Setup`."""

    def register(function: Verb[P]) -> Verb[P]:
        own = _parameters(function)[1:]
        common = _parameters(_common)

        def command(**given: Any) -> None:
            shared = {parameter.name: given.pop(parameter.name) for parameter in common}
            shared.pop("debug")
            run = cast(Callable[..., None], function)
            run(Setup(**shared), **given)

        parameters = [*own, *common]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        lines = "\n".join(f"  {example}" for example in examples)
        text = f"{inspect.getdoc(function)}\n\n\b\nExamples:\n{lines}"
        app.command(name, help=text)(command)
        return function

    return register


def _parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
    """Return the parameters by keyword, with their annotations resolved."""
    hints = get_type_hints(function, include_extras=True)
    return [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(function).parameters.values()
    ]
