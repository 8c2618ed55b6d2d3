"""Whether leased tasks that lie in front of ready ones make claims dearer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import product

import psycopg

from benchmarks.counters import Meter
from benchmarks.estimates import Bar, Estimate, median, ratio
from benchmarks.peers.peer import PeerFailed
from benchmarks.speed.draining import drain, refuse_repairs
from benchmarks.speed.plain import PLAIN_RAW, PLAIN_SEED_SHAPE, Plain, plain_filled, work
from benchmarks.speed.preload import Bed, bed, filled
from benchmarks.speed.result import OURS, Key, Result
from benchmarks.stage import QUEUE
from orchestrator.store import cut
from orchestrator.store.sql import run, session_options

TITLE = "Leased tasks in front of ready ones"
LEASED = (0, 100_000, 1_000_000)
TASKS = 20_000
PAIRS, MIDDLE_PAIRS, PLAIN_PAIRS = 10, 5, 5
_QUICK_LEASED = (0, 100_000)
_QUICK_TASKS = 5_000
# Enough to time one that leases a batch in half a second.
_PLAIN_TASKS = 20_000
_PLAIN_PATIENCE_S = 6.0
_BAR = 0.95
RATE, AGAINST_NONE = "tasks/s", "rate against none"

Rates = dict[int, list[float]]


class _Found:
    """What was measured, by system and by how many tasks were leased."""

    def __init__(self, levels: Sequence[int]) -> None:
        self.levels = levels
        self.rates: dict[str, Rates] = {}
        self.wal: Rates = {level: [] for level in levels}
        self.commits: Rates = {level: [] for level in levels}
        self.sweeps_ms: Rates = {level: [] for level in levels}
        self.notes: list[str] = []


def measure(quick: bool) -> Result:
    """Drain behind 0, 100,000 and 1,000,000 leased tasks; the same for the hand-written queues."""
    levels, tasks = (_QUICK_LEASED, _QUICK_TASKS) if quick else (LEASED, TASKS)
    found = _Found(levels)
    with bed() as on:
        _ours(on, found, tasks, pairs=2 if quick else PAIRS)
        for plain in (PLAIN_RAW, PLAIN_SEED_SHAPE):
            try:
                _plain(on, found, plain, pairs=1 if quick else PLAIN_PAIRS)
            except PeerFailed as error:
                found.notes.append(f"{plain.peer.name} is left out: {error}")
    return Result(
        "inflight", TITLE, _setting(levels, tasks), _measures(found), _bars(found), found.notes
    )


def _ours(on: Bed, found: _Found, tasks: int, *, pairs: int) -> None:
    for leased in found.levels:
        on.prepare(f"ours_{leased}", filled(tasks, leased=leased))
    rates = found.rates[OURS] = {leased: [] for leased in found.levels}
    none, *middle, most = found.levels
    for pair in range(pairs):
        # The two of the bar one right after the other.
        for leased in (none, most, *(middle if pair < MIDDLE_PAIRS else ())):
            with on.stage(f"ours_{leased}") as stage:
                meter = Meter(stage.connection)
                before = meter.read()
                drained = drain(stage, tasks)
                spent = meter.since(before)
                refuse_repairs(stage)
                found.sweeps_ms[leased].append(_sweep_ms(stage.dsn))
            rates[leased].append(drained.rate(tasks))
            found.wal[leased].append(spent.wal_bytes / tasks)
            found.commits[leased].append(spent.transaction_ids / tasks)


def _sweep_ms(dsn: str) -> float:
    """Return the milliseconds of the sweep's count, which the leader does every 30 seconds."""
    with psycopg.connect(dsn, autocommit=True, options=session_options()) as connection:
        snapshot = str(connection.execute("select pg_current_snapshot()::text").fetchall()[0][0])
        began = time.perf_counter()
        run(connection, cut.count_in_flight(QUEUE, snapshot))
        return (time.perf_counter() - began) * 1_000


def _plain(on: Bed, found: _Found, plain: Plain, *, pairs: int) -> None:
    name = plain.peer.name
    for leased in found.levels:
        on.prepare(f"{name}_{leased}", plain_filled(plain, _PLAIN_TASKS, leased=leased))
    rates: Rates = {leased: [] for leased in found.levels}
    for _, leased in product(range(pairs), found.levels):
        with on.copy(f"{name}_{leased}") as dsn:
            worked = work(plain, dsn, _PLAIN_TASKS, patience_s=_PLAIN_PATIENCE_S)
        rates[leased].append(worked.per_s)
    found.rates[name] = rates


def _against_none(rates: Rates, leased: int) -> Estimate:
    """Return the ratio of the pairs: measured one right after the other, as far as both go."""
    pairs = min(len(rates[0]), len(rates[leased]))
    return ratio(rates[leased][:pairs], rates[0][:pairs])


def _measures(found: _Found) -> Mapping[Key, Estimate]:
    measures: dict[Key, Estimate] = {}
    for (system, rates), leased in product(found.rates.items(), found.levels):
        case = leased_case(leased)
        measures[Key(case, system, RATE)] = median(rates[leased])
        if leased:
            measures[Key(case, system, AGAINST_NONE)] = _against_none(rates, leased)
    for leased in found.levels:
        case = leased_case(leased)
        measures[Key(case, OURS, "WAL bytes/task")] = median(found.wal[leased])
        measures[Key(case, OURS, "writing transactions/task")] = median(found.commits[leased])
        measures[Key(case, OURS, "sweep's count, ms")] = median(found.sweeps_ms[leased])
    return measures


def leased_case(leased: int) -> str:
    """Return the name of the case with so many tasks in front."""
    return f"{leased:,} leased in front"


def _bars(found: _Found) -> list[Bar]:
    most = found.levels[-1]
    name = f"inflight: drain rate, {most:,} leased in front against none"
    return [Bar(name, _against_none(found.rates[OURS], most), _BAR, at_least=True)]


def _setting(levels: Sequence[int], tasks: int) -> str:
    most = " and ".join(f"{level:,}" for level in levels)
    return (
        f"{tasks:,} no-op tasks of 20 orgs behind {most} leased tasks of another org and of the"
        " highest priority, whose keys lie before all others; one worker process; rate from the"
        " first claim to the last end by the clock of the database, or between the starts of"
        " handlers of the hand-written queues (batches of 500, at most"
        f" {_PLAIN_PATIENCE_S:g} s each). Each time in a database of its own, copied from one that"
        " was filled once, vacuumed and analysed."
    )
