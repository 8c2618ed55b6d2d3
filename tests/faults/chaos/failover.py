"""Strike leaders with the default settings, again and again: how long until the next one admits.

`python -m tests.faults.chaos.failover --kills 240 --pauses 80` writes what it measured into
docs/failover.json. A light load runs meanwhile, and more is staged than it can do.
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fairness.replicas import replicas
from benchmarks.load import settle
from benchmarks.speed.holding import stage_holding, start_workers
from benchmarks.speed.takeovers import Takeover, strike_leaders
from benchmarks.stage import QUEUE, stage
from orchestrator.fairness.measures import percentile
from orchestrator.store import report
from orchestrator.store.report import Verdict
from orchestrator.store.sql import run

RESULTS = Path(__file__).parents[3] / "docs" / "failover.json"
REPLICAS, ORGS, CONCURRENCY, HOLD_S = 3, 20, 4, 0.02
# More than a kill or a pause takes, with its takeover and its successor's start.
S_PER_KILL, S_PER_PAUSE = 6.0, 10.0


def main(kills: int, pauses: int, results: Path) -> None:
    """Strike so many leaders and write the figures down."""
    with stage() as on:
        lasting_s = kills * S_PER_KILL + pauses * S_PER_PAUSE
        stage_holding(on, round(lasting_s * CONCURRENCY / HOLD_S), ORGS, HOLD_S)
        settle(on.connection)
        start_workers(on, 1, concurrency=CONCURRENCY)
        with replicas(on.dsn, REPLICAS) as standing:
            killed = strike_leaders(on, standing, REPLICAS, kills)
            paused = strike_leaders(on, standing, REPLICAS, pauses, signal.SIGSTOP)
        verdict: Verdict = run(on.connection, report.verdict(QUEUE))
    found = {
        "killed": figures(killed),
        "paused": figures(paused),
        "tasks lost": verdict.lost,
        "tasks ended twice": verdict.duplicated,
    }
    results.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps({name: without_list(value) for name, value in found.items()}))  # noqa: T201


def figures(takeovers: Sequence[Takeover]) -> dict[str, Any]:
    """Return the figures of one kind of strike, in seconds."""
    seconds = sorted(each.seconds for each in takeovers)
    return {
        "count": len(seconds),
        "p50": round(percentile(seconds, 0.5), 3),
        "p99": round(percentile(seconds, 0.99), 3),
        "max": round(seconds[-1], 3),
        "seconds": [round(each, 3) for each in seconds],
        "until the election": [round(each.election_s, 3) for each in takeovers],
    }


def without_list(value: Any) -> Any:
    """Return the figures without the single measurements."""
    if isinstance(value, dict):
        return {name: each for name, each in value.items() if not isinstance(each, list)}
    return value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=240)
    parser.add_argument("--pauses", type=int, default=80)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    main(given.kills, given.pauses, given.results)
