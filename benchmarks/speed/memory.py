"""`memory`: what leader and worker hold in memory while a million staged tasks are drained."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.estimates import Bar, exact
from benchmarks.load import settle, stage_tasks
from benchmarks.processes import Memory, memory
from benchmarks.speed.holding import start_workers
from benchmarks.speed.result import OURS, Key, Result
from benchmarks.stage import QUEUE, Stage, stage, wait_for

TASKS = 1_000_000
ORGS = 1_000
_QUICK_PART = 10
# Drained for so long at the most: what was admitted by then is said.
_DRAIN_S, _QUICK_DRAIN_S = 75.0, 20.0
_SAMPLE_S = 0.5
# Afterwards, with nothing to do or with the worker gone: what stays.
_REST_S = 3.0
LEADER_BAR_MB = 200.0
MB = 1e6


class Drained(NamedTuple):
    """Memory of each process before, while and after tasks were drained, and how many were."""

    before: Mapping[str, Memory]
    meanwhile: Sequence[Mapping[str, Memory]]
    after: Mapping[str, Memory]
    admitted: int
    seconds: float


def measure(quick: bool) -> Result:
    """Return the memory of both processes while tasks are drained and after, and the bar."""
    tasks = TASKS // (_QUICK_PART if quick else 1)
    most_s = _QUICK_DRAIN_S if quick else _DRAIN_S
    drained = _drain(tasks, most_s)
    values: dict[tuple[str, str], float] = {}
    for name in drained.before:
        looks = [look[name] for look in drained.meanwhile]
        values[f"{name}, before", "RSS, MB"] = drained.before[name].rss / MB
        values[f"{name}, draining", "RSS, largest, MB"] = drained.after[name].peak / MB
        values[f"{name}, draining", "PSS, largest, MB"] = max(look.pss for look in looks) / MB
        values[f"{name}, after", "RSS, MB"] = drained.after[name].rss / MB
        values[f"{name}, after", "PSS, MB"] = drained.after[name].pss / MB
    values["all", "tasks admitted"] = drained.admitted
    values["all", "seconds"] = drained.seconds
    measures = {Key(case, OURS, metric): exact(value) for (case, metric), value in values.items()}
    peak = exact(drained.after["leader"].peak / MB)
    bars = [Bar(f"leader at {tasks:,} staged tasks, largest RSS, MB", peak, LEADER_BAR_MB)]
    setting = _setting(tasks, most_s)
    return Result("memory", "Memory with a million staged tasks", setting, measures, bars)


def _drain(tasks: int, most_s: float) -> Drained:
    with stage() as on:
        stage_tasks(on.connection, tasks, ORGS)
        settle(on.connection)
        pids = {"leader": on.start_replica()}
        wait_for(lambda: _admitted(on) > 0, "the first admission")
        # The ready window is full now, and nothing moves until the worker comes.
        before = memory(pids["leader"])
        (pids["worker"],) = start_workers(on, 1)
        began = time.monotonic()
        looks = [_look(pids)]
        while _admitted(on) < tasks and time.monotonic() - began < most_s:
            time.sleep(_SAMPLE_S)
            looks.append(_look(pids))
        seconds = time.monotonic() - began
        admitted = _admitted(on)
        time.sleep(_REST_S)
        return Drained(
            {"leader": before, "worker": looks[0]["worker"]}, looks, _look(pids), admitted, seconds
        )


def _look(pids: Mapping[str, int]) -> dict[str, Memory]:
    return {name: memory(pid) for name, pid in pids.items()}


def _admitted(on: Stage) -> int:
    """Return how many admissions there were, from the one row that knows."""
    row = on.connection.execute(
        "select admit_seq from orchestrator.queue_state where queue = %s", [QUEUE]
    ).fetchone()
    assert row is not None
    return int(row[0])


def _setting(tasks: int, most_s: float) -> str:
    return (
        f"{tasks:,} no-op tasks of {ORGS:,} orgs staged, one replica and one worker process of"
        " concurrency 10, both with the default settings; VmRSS, VmHWM and Pss of /proc, a look"
        f" every {_SAMPLE_S * 1000:.0f} ms. Before: the leader has loaded everything and filled the"
        f" ready window, the worker has started. After: {_REST_S:.0f} s after the end, or after"
        f" {most_s:.0f} s where the tasks last longer"
    )
