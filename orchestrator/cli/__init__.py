"""The command line: one module for each group of verbs, and what all of them share here.

Exit codes: 0 done; 1 it failed; 2 what was given is wrong (arguments, files, configuration); 3 the
database cannot be reached. Whatever is wrong is said in one line on stderr, with what to do about
it. Modules that take long to load are imported by the verb that needs them, so that `--help` is
immediate.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from orchestrator.cli import (
    config,
    demo,
    doctor,
    enqueue,
    explaining,
    grant,
    leader,
    migrate,
    orgs,
    output,
    queues,
    run,
    schedules,
    shadow,
    simulate,
    status,
    tasks,
    tiers,
    tokens,
    top,
)
from orchestrator.errors import ConfigError, DatabaseUnavailable, InvalidInput, OrchestratorError

# Longer than any message of ours, but for what it quotes.
_LINE_MAX = 1_000

OK, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130

# Typer keeps its errors of usage under names of its own.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    help="Fair-admission orchestrator for background work on PostgreSQL.",
    epilog=(
        "Every verb needs a database: DATABASE_URL, --dsn, a settings file, or --embedded for a "
        "private one. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 database unreachable."
    ),
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        output.say(f"orchestrator {version('orchestrator')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


for _module in (
    *(demo, run, migrate, enqueue, tasks, explaining, status, top, doctor),
    *(orgs, tiers, queues, schedules, shadow, leader, simulate, grant, tokens, config),
):
    _module.register(app)


def main() -> None:
    """Run the command line of this process and exit with its code."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows its number; nothing fails for it.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(invoke(sys.argv[1:]))


def _open_what_is_closed() -> None:
    """Stand in for the streams that whoever started us has closed (`>&-`): what is opened next
    would take their numbers, and be written to by whatever this process starts.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - until the end


def invoke(arguments: Sequence[str]) -> int:
    """Run the verb that `arguments` name; print what is wrong, if anything is; return the code."""
    try:
        code = app(list(arguments), prog_name="orchestrator", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):  # Typer makes the one of the other
        return _nobody_reads()
    except Exception as error:  # noqa: BLE001 - this is where every error ends, as one line
        if "--debug" in arguments:
            traceback.print_exc()
        code, text = explain(error)
        output.note(f"orchestrator: {_short(' '.join(text.split()))}")
    return code if isinstance(code, int) else OK


def _short(line: str) -> str:
    """Return a line that quotes something huge without its middle: what to do stands at the end."""
    return (
        line if len(line) <= _LINE_MAX else f"{line[: _LINE_MAX // 2]} … {line[-_LINE_MAX // 2 :]}"
    )


def explain(error: Exception) -> tuple[int, str]:
    """Return the exit code and the line that stand for an error."""
    error = _ours(error)
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "orchestrator"
        return USAGE, f"{error.format_message()} See `{path} --help`."  # type: ignore[attr-defined]
    if isinstance(error, ConfigError | InvalidInput):
        return USAGE, str(error)
    if isinstance(error, DatabaseUnavailable):
        return UNREACHABLE, str(error)
    if isinstance(error, OrchestratorError):
        return FAILED, str(error)
    return FAILED, f"{type(error).__name__}: {error} (--debug shows where)"


def _ours(error: Exception) -> Exception:
    """Return the error of ours for one of the driver's; it can only be one if that is loaded."""
    psycopg = sys.modules.get("psycopg")
    if psycopg is None or not isinstance(error, psycopg.Error):
        return error
    from orchestrator.store.sql import explained

    return explained(error)


def _nobody_reads() -> int:
    """End quietly when what reads our output is gone, as in `orchestrator task list | head`."""
    sys.stdout = open("/dev/null", "w")  # noqa: PTH123, SIM115 - for the flush at exit
    return OK
