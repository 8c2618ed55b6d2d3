"""One simulation, in a process of its own: `python -m orchestrator.server.dashboard.simulation`.

It takes seconds of processor time, which a server that answers requests has not. The question is
one JSON line on standard input (so that no list of processes shows the DSN), the answers are JSON
lines: `{"doing": …, "done": …, "total": …}` on the way, at the end `{"result": …}` or
`{"error": …}`.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
from dataclasses import replace
from typing import Any

import psycopg

from orchestrator.errors import InvalidInput, OrchestratorError
from orchestrator.fairness.simulation.compare import (
    Column,
    critical_dwell,
    starved,
    tiers_of,
    top_orgs,
    worst_lag,
)
from orchestrator.fairness.simulation.report import report_of
from orchestrator.fairness.simulation.simulate import simulate
from orchestrator.policyfile import apply, demand_used, parse_override
from orchestrator.store import history
from orchestrator.store.sql import run, translated

MEMORY_MAX = 2 * 2**30
_ORGS = 12


def main() -> None:
    """Answer the question on standard input."""
    os.nice(10)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, hard))
    gc.disable()  # millions of small values, and none is part of a cycle
    try:
        _say(result=_compared(json.loads(sys.stdin.readline())))
    except OrchestratorError as error:
        _say(error=str(error))
    except MemoryError:
        _say(error=f"more than {MEMORY_MAX >> 30} GiB of memory: choose a shorter time")


def _compared(asked: dict[str, Any]) -> dict[str, Any]:
    overrides = [parse_override(asked["setting"])]
    name = "orchestrator simulate"
    with (
        translated(),
        psycopg.connect(asked["dsn"], autocommit=True, application_name=name) as connection,
    ):
        draft = run(connection, history.configuration(asked["queue"]))
        reading = history.read(
            asked["queue"],
            asked["window_s"],
            progress=lambda rows: _say(doing="reading", done=rows, total=None),
        )
        found: history.History = run(connection, reading)
    trace = found.trace
    if trace.slots is None:
        raise InvalidInput("nothing ended in that time, so nothing says how many ran at once")
    draft = replace(draft, policy=replace(draft.policy, slots=trace.slots))
    changed = apply(draft, overrides)
    demand_used(draft, changed, overrides, trace.workloads)
    columns = []
    for name, policy in (("current", draft.settled), ("proposed", changed.settled)):

        def step(done: int, total: int, doing: str = name) -> None:
            _say(doing=doing, done=done, total=total)

        columns.append(Column(name, policy, report_of(simulate(trace, policy, progress=step))))
    return {
        "tasks": len(trace),
        "orgs": len(trace.orgs),
        "critical": sum(trace.critical),
        "slots": trace.slots,
        "waited": found.waited,
        "estimated": found.estimated,
        "columns": [_column(column) for column in columns],
        "changed": [
            {"org": row[0].org, "tier": row[0].tier, "tasks": row[0].arrived,
             "dwell": [_dwell(each.dwell) for each in row],
             "weight": [each.weight for each in row]}
            for row in top_orgs(columns, _ORGS)
        ],
    }  # fmt: skip


def _column(column: Column) -> dict[str, Any]:
    report, lag = column.report, worst_lag(column.report)
    return {
        "name": column.name,
        "dwell": _dwell(report.dwell),
        "critical": _dwell(critical_dwell(report)),
        "jain": report.jain,
        "lag": None if lag is None else lag.ratio,
        "utilisation": report.utilisation,
        "starved": len(starved(column)),
        "tiers": [
            {"tier": tier.tier, "dwell": _dwell(tier.dwell), "share": tier.share, "due": tier.due}
            for tier in tiers_of(report)
        ],
    }


def _dwell(spread: Any) -> dict[str, float]:
    return {"p50": spread.p50, "p95": spread.p95, "p99": spread.p99}


def _say(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
