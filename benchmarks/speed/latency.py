"""How soon a task starts on an idle system: from the call that enqueues it to its handler."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.estimates import Bar
from benchmarks.peers.peer import Load, Peer, PeerFailed, Work, enqueue, setup, working
from benchmarks.peers.registry import (
    DBOS,
    GRAPHILE,
    OBAN,
    OURS,
    PG_BOSS,
    PGQUEUER,
    PROCRASTINATE,
    STAGED,
)
from benchmarks.speed.compare import (
    PAIRS,
    Entrant,
    Ledger,
    bar,
    close,
    extended,
    percentile,
    server,
)
from benchmarks.speed.result import Key, Result

TASKS, FIRST_TASKS, QUICK_TASKS = 1_000, 500, 300
GAP_MS = 10.0
P50_LIMIT, P99_LIMIT = 1.5, 1.0
P50, P99 = "p50 ms", "p99 ms"
FIRST, BESIDE = "once each", "in turn"
# Who may be the best is looked at in both configurations; who polls by default, in the other.
_BOTH = (GRAPHILE, PGQUEUER)
_FAST = (PG_BOSS, PROCRASTINATE, OBAN, DBOS)
_WARM_UP, _WARM_UP_ORG, _WARM_UP_GAP_MS = 100, "warm-up", 2.0
_PATIENCE_S = 30.0


class Latency(NamedTuple):
    """Of the tasks of one measurement, in milliseconds."""

    p50_ms: float
    p99_ms: float


def measure(quick: bool) -> Result:
    """Return the latencies of all, and how ours compares with the best."""
    ledger = Ledger()
    tasks, first_tasks = (QUICK_TASKS, QUICK_TASKS) if quick else (TASKS, FIRST_TASKS)
    for entrant in _field(first_tasks, quick):
        _play(ledger, FIRST, 0, entrant)
    rivals = [entrant for entrant in _field(tasks, quick) if ledger.runs(entrant.peer)]
    rival = min(rivals, key=lambda e: ledger.median(Key(FIRST, e.system, P50)), default=None)
    ours = Entrant(OURS, Work(), tasks)
    bars = _paired(ledger, ours, rival, 2 if quick else PAIRS)
    ledger.remarks.append("raw and seed-shape have no wake-up: they look again every 20 ms.")
    title = "From enqueue to start"
    return Result("latency", title, _setting(quick), ledger.estimates(), bars, ledger.notes())


def _field(tasks: int, quick: bool) -> list[Entrant]:
    """Return those that are looked at once."""
    if quick:
        return [Entrant(peer, Work(fast=peer is PG_BOSS), tasks) for peer in (GRAPHILE, PG_BOSS)]
    both = [Entrant(peer, Work(fast), tasks) for peer in _BOTH for fast in (False, True)]
    return both + [Entrant(peer, Work(fast=True), tasks) for peer in _FAST]


def _paired(ledger: Ledger, ours: Entrant, rival: Entrant | None, pairs: int) -> list[Bar]:
    """Measure staged, ours and the rival in turn."""
    staged = ours._replace(peer=STAGED)
    limits = ((P50, P50_LIMIT), (P99, P99_LIMIT))

    def play(turn: int) -> None:
        # No bar needs staged in the rounds that a close one takes.
        for entrant in (staged if turn < pairs else None, ours, rival):
            if entrant is not None:
                _play(ledger, BESIDE, turn, entrant)

    def of(entrant: Entrant, metric: str) -> Key:
        return Key(BESIDE, entrant.system, metric)

    def is_close() -> bool:
        return rival is not None and any(
            close(ledger.ratio(of(ours, m), of(rival, m)), limit) for m, limit in limits
        )

    extended(pairs, play, is_close)
    for metric, _ in limits:
        ledger.compare(of(ours, metric), of(staged, metric))
    if rival is None:
        return []
    return [
        made
        for metric, limit in limits
        for made in bar(
            f"{metric.split()[0]} against {rival.peer.name}, the best peer",
            ledger.ratio(of(ours, metric), of(rival, metric)),
            limit,
            at_least=False,
        )
    ]


def _play(ledger: Ledger, case: str, turn: int, entrant: Entrant) -> None:
    if not ledger.runs(entrant.peer):
        return
    with ledger.forgiving(entrant.peer):
        found = _latency(entrant)
        ledger.put(Key(case, entrant.system, P50), turn, found.p50_ms)
        ledger.put(Key(case, entrant.system, P99), turn, found.p99_ms)


def _latency(entrant: Entrant) -> Latency:
    peer, tasks = entrant.peer, entrant.tasks
    with server() as (dsn, directory), working(peer, dsn, directory) as workers:
        setup(peer, dsn)
        workers.start(entrant.work._replace(trace=True))
        enqueue(peer, dsn, Load(_WARM_UP, org=_WARM_UP_ORG, gap_ms=_WARM_UP_GAP_MS))
        _await(peer, workers.wait(_WARM_UP, _PATIENCE_S))
        enqueue(
            peer, dsn, Load(tasks, gap_ms=GAP_MS), patience_s=tasks * GAP_MS / 1e3 + _PATIENCE_S
        )
        _await(peer, workers.wait(_WARM_UP + tasks, _PATIENCE_S))
        workers.stop()
        waited_ms = [
            (each.started_ns - each.sent_ns) / 1e6
            for each in workers.starts()
            if each.org != _WARM_UP_ORG
        ]
    return Latency(percentile(waited_ms, 0.5), percentile(waited_ms, 0.99))


def _await(peer: Peer, came: bool) -> None:
    if not came:
        raise PeerFailed(f"{peer.name} work: not all tasks were started after {_PATIENCE_S:g} s")


def _setting(quick: bool) -> str:
    tasks = QUICK_TASKS if quick else TASKS
    return (
        f"One worker process; one client enqueues {tasks:,} tasks a round one by one, a call every"
        f" {GAP_MS:g} ms, late calls are not skipped; from the beginning of the call to the start"
        " of the handler. Others are looked at once, the one with the best p50 in turn with staged"
        " and with ours, which runs with its default settings and one replica"
    )
