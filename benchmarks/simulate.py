"""How long `orchestrator simulate` takes over a large trace, and how much memory."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.fairness.simulation.jsonl import format_trace
from orchestrator.fairness.simulation.scenarios import zipf

TASKS = 1_000_000
ORGS = 10_000
SLOTS = 200
_SEED = 1


def run(quick: bool) -> dict[str, object]:
    """Return the cost of simulating the current policy over orgs of Zipf demand, from a file."""
    return measure(TASKS // (10 if quick else 1))


def measure(tasks: int) -> dict[str, object]:
    """Return what a trace of so many tasks costs."""
    with tempfile.TemporaryDirectory() as directory:
        trace = Path(directory, "trace.jsonl")
        _write(trace, tasks)
        command = [sys.executable, "-m", "orchestrator", "simulate", str(trace), "--json"]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        # With no database named: the policy is that of a new one.
        env = {k: v for k, v in os.environ.items() if not k.startswith(("DATABASE", "ORCHESTR"))}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=directory, env=env)
        wall_s = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (current,) = json.loads(done.stdout)["policies"]
    return {
        "tasks": tasks,
        "orgs": ORGS,
        "slots": SLOTS,
        "wall_s": round(wall_s, 1),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        # Of the largest child so far; this is the only one. Kilobytes, but bytes on macOS.
        "peak_rss_mb": round(after.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)),
        "started": current["started"],
        "utilisation": round(current["utilisation"], 3),
        "jain": round(current["jain"], 3),
    }


def _write(path: Path, tasks: int) -> None:
    scenario = zipf(random.Random(_SEED), orgs=ORGS, tasks=tasks, slots=SLOTS)
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{line}\n" for line in format_trace(scenario.trace))
