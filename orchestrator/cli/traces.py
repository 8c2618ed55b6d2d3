"""Where `simulate` has its trace from: a file, standard input, or the history of a database."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.cli import values
from orchestrator.cli.comparison import Source
from orchestrator.cli.setup import Setup
from orchestrator.errors import InvalidInput
from orchestrator.fairness.simulation.jsonl import format_trace, parse_trace
from orchestrator.fairness.simulation.trace import Trace
from orchestrator.policyfile import Draft

_LINES_PER_STEP = 20_000

# Says how far it is: (done, of how many if that is known).
Step = Callable[[int, int | None], None]


def read(
    setup: Setup, file: str | None, span: str | None, queue: str, step: Step
) -> tuple[Source, Draft]:
    """Return the trace and what is in force, from the database where one is named."""
    window_s = values.duration("--from-history", span)
    if window_s is None:
        assert file is not None
        draft = _configuration(setup, queue) if setup.names_database else Draft()
        return Source(_trace_of(file, step), file), draft
    if window_s <= 0:
        raise InvalidInput("--from-history must be longer than 0")
    from orchestrator.store import history
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        draft = run(connection, history.configuration(queue))
        reading = history.read(queue, window_s, progress=lambda rows: step(rows, None))
        found: history.History = run(connection, reading)
    told = f"the last {span} of queue {queue}"
    return Source(found.trace, told, found.waited, found.estimated), draft


def _configuration(setup: Setup, queue: str) -> Draft:
    from orchestrator.store import history
    from orchestrator.store.sql import run

    with setup.connection() as connection:
        draft: Draft = run(connection, history.configuration(queue))
    return draft


def _trace_of(file: str, step: Step) -> Trace:
    name = "standard input" if file == "-" else file
    try:
        if file == "-":
            return parse_trace(_counted(sys.stdin, step))
        with Path(file).open(encoding="utf-8-sig") as lines:
            return parse_trace(_counted(lines, step))
    except FileNotFoundError as error:
        raise InvalidInput(f"no file {file}: check its name") from error
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{name} is not UTF-8 text") from error
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error}") from error


def _counted(lines: Iterable[str], step: Step) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if number % _LINES_PER_STEP == 0:
            step(number, None)
        yield line


def with_slots(source: Source, slots: int | None) -> Source:
    """Return the source with the number of slots it is simulated on."""
    known = slots or source.trace.slots
    if known is None:
        raise InvalidInput(
            f"{source.told} does not say how many tasks ran at once: give --slots N,"
            ' or {"slots": N} as the first line of a trace'
        )
    return source._replace(trace=replace(source.trace, slots=known))


def export(path: Path, trace: Trace) -> None:
    """Write a trace down, the number of slots first."""
    try:
        with path.open("w", encoding="utf-8") as lines:
            lines.writelines(f"{line}\n" for line in format_trace(trace))
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from error
