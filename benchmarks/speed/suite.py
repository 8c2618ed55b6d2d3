"""The benchmarks of speed by name, one run of one of them, and all of them one after the other."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from benchmarks.speed.record import Record, from_values
from benchmarks.speed.result import Result
from benchmarks.text import label

# In the order in which they run and are reported: first what everybody asks, then costs that must
# stay flat, then what is particular to us. The sentences are the list that `--help` shows.
BENCHMARKS: Mapping[str, str] = {
    "drain": "staged work to its end, beside other queues: rate, 1 and 2 workers, sustained",
    "enqueue": "one client, 16 clients, and in bulk, beside other queues",
    "latency": "from enqueue to the start of the handler on an idle system",
    "noisy": "10 tasks of one org behind 50,000 of another: position and dwell of the last",
    "inflight": "claim and drain with up to 1,000,000 leased tasks in front",
    "xmin": "draining while another session holds a snapshot that keeps vacuum from its work",
    "depth": "the first tasks of 10,000 and of 5,000,000 staged",
    "orgs": "tick and takeover with 10, 1,000 and 100,000 orgs",
    "payload": "payloads of 100 B, 10 kB and 200 kB: rate and WAL per task",
    "burst": "4 to 256 connections of workers",
    "idle": "what a queue without work costs in a minute",
    "failover": "100 killed and 20 paused leaders: how long until the next one admits",
    "poll": "1,000 polls of an empty queue over HTTP, and how soon a long poll hears of work",
    "http": "enqueue, claim and ack over HTTP in batches of 100, beside the Python client",
    "apiload": "ticks of the leader while the API beside it is loaded for a minute",
    "memory": "memory of leader and worker with 1,000,000 staged tasks",
}
ROOT = Path(__file__).parents[2]
# Several times what the slowest takes: one that hangs must not hold up the others for ever.
_TIMEOUT_S = 2_400.0
# To leave the context managers, which stop servers and processes.
_CLEANUP_S = 60.0


class BenchmarkFailed(Exception):
    """A benchmark ended without a result."""


class Outcome(NamedTuple):
    """What became of one benchmark of several: its record, or why there is none."""

    name: str
    seconds: float
    record: Record | None = None
    error: str = ""


def measure(name: str, *, quick: bool) -> Record:
    """Run the benchmark `name` in this process."""
    # Only now: a module that is broken must not break the others.
    from benchmarks.speed.surroundings import look_around, peer_versions

    run: Callable[[bool], Result] = importlib.import_module(f"benchmarks.speed.{name}").measure
    surroundings = look_around()
    at, began = datetime.now(UTC), time.monotonic()
    result = run(quick)
    seconds = time.monotonic() - began
    versions = {**surroundings.versions, **peer_versions(result)}
    surroundings = surroundings._replace(versions=versions)
    return Record(result, surroundings, at.isoformat(timespec="seconds"), seconds, quick)


def measure_apart(name: str, *, options: Sequence[str] = ()) -> Record:
    """Run the benchmark `name` in a process of its own; raise BenchmarkFailed if it fails.

    So that nothing of it, neither memory nor threads, is there when the next one is measured.
    """
    command = [sys.executable, "-m", "benchmarks", name, "--json", *options]
    # In a session of its own Ctrl-C does not reach it: it is told once, by us.
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            written, _ = process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise BenchmarkFailed(f"given up after {_TIMEOUT_S:.0f} s") from None
        finally:
            _end(process)
    if process.returncode != 0:
        raise BenchmarkFailed(f"ended with status {process.returncode} (see above)")
    return from_values(json.loads(written.splitlines()[-1]))


def _end(process: subprocess.Popen[str]) -> None:
    """Let the process clean up behind itself, if it has not ended; it takes SIGTERM as Ctrl-C."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_CLEANUP_S)
    except subprocess.TimeoutExpired:
        process.kill()


def measure_all(
    names: Sequence[str],
    measure_one: Callable[[str], Record],
    tell: Callable[[str], object],
) -> list[Outcome]:
    """Run the named benchmarks in turn; `tell` each beginning and each end.

    One that fails does not stop the others.
    """
    outcomes = []
    for place, name in enumerate(names, 1):
        tell(f"[{place}/{len(names)}] {name}: {BENCHMARKS[name]}")
        began = time.monotonic()
        try:
            record = measure_one(name)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others can be measured
            text = str(error) or type(error).__name__
            outcomes.append(Outcome(name, time.monotonic() - began, error=text))
        else:
            outcomes.append(Outcome(name, time.monotonic() - began, record))
        tell(f"[{place}/{len(names)}] {told(outcomes[-1])}")
    return outcomes


def told(outcome: Outcome) -> str:
    """Return what became of a benchmark as one line."""
    if outcome.record is None:
        return f"{outcome.name}: FAILED after {outcome.seconds:.0f} s: {outcome.error}"
    bars = outcome.record.result.bars
    missed = [label(outcome.name, bar) for bar in bars if not bar.passed]
    held = f"{len(bars) - len(missed)} of {len(bars)} bars met" if bars else "no bars"
    return f"{outcome.name}: {outcome.seconds:.0f} s, {held}" + (
        f"; missed: {', '.join(missed)}" if missed else ""
    )
