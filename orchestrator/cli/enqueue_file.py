"""`enqueue --from`: a stream of JSON lines, checked and stored chunk by chunk."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from orchestrator.cli import output, values
from orchestrator.cli.setup import Setup, actor
from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.model import TaskSpec

if TYPE_CHECKING:
    from orchestrator.client import Client
    from orchestrator.config import LimitsSettings

# Lines stored in one transaction: long enough to be fast, short enough to lose little to a bad one.
_CHUNK = 1_000
# Keys that say the same in different ways, and so exclude each other.
_WAYS = (
    frozenset({"run_at", "delay"}),
    frozenset({"expires_at", "expires_in"}),
    frozenset({"priority", "urgency"}),
)


class _Line(NamedTuple):
    number: int
    spec: TaskSpec


@dataclass(slots=True)
class _Progress:
    """How far the file is stored."""

    created: int = 0
    existing: int = 0
    lines: int = 0


def enqueue(
    setup: Setup,
    source: str,
    defaults: Mapping[str, Any],
    *,
    skip: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Enqueue a task for each line of `source` after the first `skip`; `-` is standard input."""
    name = "standard input" if source == "-" else source
    done = _Progress(lines=skip)
    limits = setup.settings.limits
    with (
        _opened(source) as (stream, size),
        setup.fitting_database() as dsn,
        _client(setup, dsn, dry_run=dry_run) as client,
        _bar(size) as advance,
    ):
        try:
            for chunk, bytes_read in _chunks(stream, name, defaults, skip, limits):
                if client is None:
                    done.created += len(chunk)
                else:
                    _store(client, chunk, name, done)
                done.lines = chunk[-1].number
                advance(bytes_read)
        except OrchestratorError as error:
            raise type(error)(f"{error}{_resume(done, skip, dry_run=dry_run)}") from error
        except KeyboardInterrupt:
            output.note(f"stopped{_resume(done, skip, dry_run=dry_run)}")
            raise
    _report(name, done, dry_run=dry_run, as_json=as_json)


def _client(setup: Setup, dsn: str, *, dry_run: bool) -> AbstractContextManager[Client | None]:
    if dry_run:
        return nullcontext()
    from orchestrator.client import Client

    return Client(dsn, settings=setup.settings, name=actor())


def _store(client: Client, chunk: Sequence[_Line], name: str, done: _Progress) -> None:
    """Store a chunk whole or not at all."""
    try:
        stored = client.enqueue_many([line.spec for line in chunk])
    except OrchestratorError as error:
        where = f"{name}, lines {chunk[0].number}-{chunk[-1].number}"
        raise type(error)(f"{where}: {error}") from error
    created = sum(each.created for each in stored)
    done.created += created
    done.existing += len(stored) - created


def _chunks(
    stream: IO[bytes], name: str, defaults: Mapping[str, Any], skip: int, limits: LimitsSettings
) -> Iterator[tuple[list[_Line], int]]:
    """Yield checked lines in chunks, each with how many bytes it took."""
    chunk: list[_Line] = []
    bytes_read = 0
    for number, raw in enumerate(stream, 1):
        bytes_read += len(raw)
        if number <= skip or not raw.strip():
            continue
        chunk.append(_Line(number, _spec(name, number, raw, defaults, limits)))
        if len(chunk) == _CHUNK:
            yield chunk, bytes_read
            chunk, bytes_read = [], 0
    if chunk:
        yield chunk, bytes_read


def _spec(
    name: str, number: int, raw: bytes, defaults: Mapping[str, Any], limits: LimitsSettings
) -> TaskSpec:
    """Return the checked spec of one line; raise `InvalidInput` naming it."""
    from orchestrator.client.specs import all_ready

    try:
        item = json.loads(raw.removeprefix(b"\xef\xbb\xbf"))
        if not isinstance(item, dict):
            raise InvalidInput('give an object such as {"name": "resize", "org": "acme"}')
        merged = {key: value for key, value in defaults.items() if value is not None} | item
        for key in ("run_at", "expires_at"):
            if isinstance(merged.get(key), str):
                merged[key] = values.instant(key, merged[key])
        for key in ("delay", "timeout_s", "expires_in"):
            if isinstance(merged.get(key), str):
                merged[key] = values.duration(key, merged[key])
        for ways in _WAYS:  # the line's own replaces whichever of the options
            if not ways.isdisjoint(item):
                merged = {k: v for k, v in merged.items() if k not in ways or k in item}
        all_ready([merged], limits)
        return TaskSpec(**merged)
    except InvalidInput as error:
        reason = str(error).removeprefix("item 0: ")
        raise InvalidInput(f"{name}, line {number}: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name}, line {number}: not valid JSON: {error}") from error


def _resume(done: _Progress, skip: int, *, dry_run: bool) -> str:
    if dry_run:
        return f" ({done.created:,} tasks before it are fine)"
    if done.lines == skip:
        return " (nothing was stored)"
    stored = done.created + done.existing
    return f" ({stored:,} tasks were stored before it: go on with --skip {done.lines})"


def _report(name: str, done: _Progress, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        output.document(
            {
                "dry_run": dry_run,
                "created": 0 if dry_run else done.created,
                "existing": done.existing,
                "checked": done.created + done.existing,
            }
        )
    elif dry_run:
        output.say(f"{done.created:,} tasks of {name} are fine; nothing was stored")
    else:
        existed = f", {done.existing:,} existed by their key" if done.existing else ""
        output.say(f"enqueued {done.created:,} tasks from {name}{existed}")


@contextmanager
def _opened(source: str) -> Iterator[tuple[IO[bytes], int | None]]:
    """Yield the stream and its size, None where it cannot be told."""
    if source == "-":
        yield sys.stdin.buffer, None
        return
    with _opened_file(source) as stream:
        yield stream, os.fstat(stream.fileno()).st_size or None


def _opened_file(source: str) -> IO[bytes]:
    try:
        return Path(source).open("rb")
    except FileNotFoundError as error:
        raise InvalidInput(f"no file {source}: check its name") from error
    except OSError as error:
        raise InvalidInput(f"cannot read {source}: {error.strerror}") from error


@contextmanager
def _bar(size: int | None) -> Iterator[Any]:
    """Yield what is called with the bytes done: a progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("enqueuing"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=size)
        yield lambda count: progress.advance(bar, count)
