"""`failover`: leaders are killed, and paused; how long until the next one admits."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from benchmarks.estimates import Bar, Estimate, exact, median
from benchmarks.fairness.replicas import replicas
from benchmarks.load import settle
from benchmarks.speed.holding import stage_holding, start_workers
from benchmarks.speed.result import OURS, Key, Result
from benchmarks.speed.takeovers import Takeover, quantile, strike_leaders
from benchmarks.stage import QUEUE, stage
from orchestrator.store import report
from orchestrator.store.report import Verdict
from orchestrator.store.sql import run

KILLS, QUICK_KILLS = 100, 10
PAUSES, QUICK_PAUSES = 20, 3
REPLICAS = 3
ORGS = 20
CONCURRENCY = 4
HOLD_S = 0.02
_TASKS_PER_S = CONCURRENCY / HOLD_S
# More than a kill or a pause takes, with its takeover and its successor's start.
_S_PER_KILL, _S_PER_PAUSE = 4.0, 8.0
P99_BAR_S = 1.5
KILLED = "SIGKILL of the leader to the next admission"
PAUSED = "SIGSTOP of the leader to the next admission"
ALL = "all kills and pauses"


def measure(quick: bool) -> Result:
    """Kill and pause leaders under a light load; return how long each takeover took, of what."""
    kills, pauses = (QUICK_KILLS, QUICK_PAUSES) if quick else (KILLS, PAUSES)
    with stage() as on:
        lasting_s = kills * _S_PER_KILL + pauses * _S_PER_PAUSE
        stage_holding(on, round(lasting_s * _TASKS_PER_S), ORGS, HOLD_S)
        settle(on.connection)
        start_workers(on, 1, concurrency=CONCURRENCY)
        with replicas(on.dsn, REPLICAS) as standing:
            killed = strike_leaders(on, standing, REPLICAS, kills)
            paused = strike_leaders(on, standing, REPLICAS, pauses, signal.SIGSTOP)
        verdict: Verdict = run(on.connection, report.verdict(QUEUE))
    measures = {
        **_measures(KILLED, killed),
        **_measures(PAUSED, paused),
        Key(ALL, OURS, "tasks lost"): exact(verdict.lost),
        Key(ALL, OURS, "tasks ended twice"): exact(verdict.duplicated),
    }
    p99 = quantile([takeover.seconds for takeover in killed], 0.99)
    bars = [
        Bar(f"{kills} leaders killed, p99 to the next admission, s", p99, P99_BAR_S),
        Bar(f"{kills} leaders killed, {pauses} paused, tasks lost", exact(verdict.lost), 0.0),
    ]
    title = "Leaders are killed, and paused"
    return Result("failover", title, _setting(kills, pauses), measures, bars)


def _measures(case: str, found: Sequence[Takeover]) -> dict[Key, Estimate]:
    seconds = [takeover.seconds for takeover in found]
    values = {
        "p50, s": quantile(seconds, 0.5),
        "p99, s": quantile(seconds, 0.99),
        "max, s": exact(max(seconds)),
        "of it until the election, median, s": median([each.election_s for each in found]),
        "of it loading the cut, median, s": median([each.loading_s for each in found]),
        "of it the first tick, median, s": median([each.tick_s for each in found]),
    }
    return {Key(case, OURS, metric): value for metric, value in values.items()}


def _setting(kills: int, pauses: int) -> str:
    return (
        f"{kills} times: {REPLICAS} replicas with the default settings, of which the leader is"
        " ended with SIGKILL 100 to 400 ms after its first admission while the two others stand"
        f" by; afterwards one more is started. Then {pauses} times the same with SIGSTOP: a paused"
        " leader keeps its session, and with it the lock, until the server ends the session for"
        " its silence (`idle_session_timeout_s`, 3 s by default). One worker process runs"
        f" {CONCURRENCY} tasks of {HOLD_S * 1000:.0f} ms at a time, {_TASKS_PER_S:.0f} a second,"
        " and more is staged than it can do. By the database's clock."
    )
