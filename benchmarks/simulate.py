"""How long `orchestrator simulate` takes over a large trace, and how much memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from orchestrator.fairness.simulation.jsonl import format_trace
from orchestrator.fairness.simulation.scenarios import zipf

TASKS = 1_000_000
ORGS = 10_000
SLOTS = 200
_SEED = 1
# Runs a command and writes what it took. A child counts as its own what its parent holds when it is
# started, and its parent may have had larger children: so its parent is this, which is small.
_TIMEKEEPER = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.call(sys.argv[2:])
took, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as usage:
    json.dump([took, used.ru_utime + used.ru_stime, used.ru_maxrss], usage)
sys.exit(code)
"""


def run(quick: bool) -> dict[str, object]:
    """Return the cost of simulating the current policy over orgs of Zipf demand, from a file."""
    return measure(TASKS // (10 if quick else 1))


def measure(tasks: int) -> dict[str, object]:
    """Return what a trace of so many tasks costs."""
    with tempfile.TemporaryDirectory() as directory:
        trace = Path(directory, "trace.jsonl")
        _write(trace, tasks)
        command = [sys.executable, "-m", "orchestrator", "simulate", str(trace), "--json"]
        # With no database named: the policy is that of a new one.
        env = {k: v for k, v in os.environ.items() if not k.startswith(("DATABASE", "ORCHESTR"))}
        usage = Path(directory, "usage.json")
        done = subprocess.run(
            [sys.executable, "-c", _TIMEKEEPER, str(usage), *command],
            check=True,
            stdout=subprocess.PIPE,
            cwd=directory,
            env=env,
        )
        wall_s, cpu_s, peak = json.loads(usage.read_text())
    (current,) = json.loads(done.stdout)["policies"]
    return {
        "tasks": tasks,
        "orgs": ORGS,
        "slots": SLOTS,
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        # Kilobytes, but bytes on macOS.
        "peak_rss_mb": round(peak / (2**20 if sys.platform == "darwin" else 2**10)),
        "started": current["started"],
        "utilisation": round(current["utilisation"], 3),
        "jain": round(current["jain"], 3),
    }


def _write(path: Path, tasks: int) -> None:
    scenario = zipf(random.Random(_SEED), orgs=ORGS, tasks=tasks, slots=SLOTS)
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{line}\n" for line in format_trace(scenario.trace))
