"""Staged work to its end, beside other queues: rate with 1 and 2 workers, costs, and sustained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
    PUBLISHED,
    RAW,
    SEED_SHAPE,
    STAGED,
)
from benchmarks.speed.compare import (
    PAIRS,
    Entrant,
    Ledger,
    bar,
    close,
    drain,
    extended,
    percentile,
    server,
)
from benchmarks.speed.result import Key, Result

TASKS, QUICK_TASKS = 50_000, 20_000
_FLOOR_WORK = [Work(fast=True, batch=batch) for batch in (100, 200, 500, 1_000)]
# What a user of each would try for throughput.
SWEPT_WORK: Mapping[str, Sequence[Work]] = {
    OURS.name: [
        Work(fast=True, batch=batch, linger_ms=linger_ms)
        for batch in (500, 1_000, 2_000)
        for linger_ms in (5.0, 20.0)
    ],
    RAW.name: _FLOOR_WORK,
    STAGED.name: _FLOOR_WORK,
}
QUICK_WORK: Mapping[str, Work] = {
    OURS.name: Work(fast=True, batch=1_000, linger_ms=20.0),
    RAW.name: Work(fast=True, batch=500),
    STAGED.name: Work(fast=True, batch=500),
}
SWEEPS, ROUNDS = 2, 3
SUSTAINED_S, QUICK_SUSTAINED_S = 30.0, 5.0
SUSTAINED_PART = 0.8
OF_RAW, OF_BEST, OF_ONE_PROCESS = 0.8, 1.0, 1.0
# What each can do in about six seconds, where that is less than all: (fast, default).
REACH: Mapping[str, tuple[int, int]] = {
    GRAPHILE.name: (TASKS, 2_500),
    PG_BOSS.name: (TASKS, 5),
    PGQUEUER.name: (25_000, 8_000),
    PROCRASTINATE.name: (1_200, 800),
    OBAN.name: (5_000, 2_500),
    DBOS.name: (1_500, 1_500),
}
_OTHERS = (SEED_SHAPE, *PUBLISHED)
# For a first look those that may be the best.
_QUICK_OTHERS = (SEED_SHAPE, GRAPHILE, PG_BOSS, PGQUEUER)
ONE, TWO, SWEPT = "1 worker process", "2 worker processes", "1 worker process, options swept"
BESIDE = f"{ONE}, in turn"
SUSTAINED = "sustained"
RATE = "tasks/s"
_GAP_MS = 10.0
_PRODUCERS = 2
# Producers that take so many times longer than they should have not offered what they were to.
_LATE = 1.02
_PATIENCE_S = 60.0
_FAST = Work(fast=True)
_METRICS = (RATE, "WAL bytes per task", "commits per task")


def measure(quick: bool) -> Result:
    """Return the rates of all, and how ours compares."""
    ledger = Ledger()
    best = QUICK_WORK if quick else _swept(ledger)
    turns = 1 if quick else ROUNDS
    for turn in range(turns):
        for peer in _QUICK_OTHERS if quick else _OTHERS:
            _play(ledger, ONE, turn, _entrant(peer, quick, _FAST))
    rival = _best(ledger, quick)
    ours = _entrant(OURS, quick, best[OURS.name])
    floors = [_entrant(peer, quick, best[peer.name]) for peer in (RAW, STAGED)]
    bars = _paired(ledger, ours, floors, rival, 2 if quick else PAIRS)
    if not quick:
        for peer in (RAW, STAGED, *_OTHERS):
            pair = _entrant(peer, quick, best.get(peer.name, _FAST))
            _play(ledger, TWO, 0, pair._replace(processes=2))
        for peer in (OURS, RAW, STAGED, *_OTHERS):
            _play(ledger, ONE, 0, _entrant(peer, quick, Work()))
    _sustain(ledger, ours, QUICK_SUSTAINED_S if quick else SUSTAINED_S)
    title = "Staged work to its end"
    return Result("drain", title, _setting(quick), ledger.estimates(), bars, ledger.notes())


def _entrant(peer: Peer, quick: bool, work: Work) -> Entrant:
    reach = REACH.get(peer.name, (TASKS, TASKS))[0 if work.fast else 1]
    return Entrant(peer, work, min(QUICK_TASKS if quick else TASKS, reach))


def _play(ledger: Ledger, case: str, turn: int, entrant: Entrant) -> None:
    """Drain once and note what was found, if the peer can run."""
    if not ledger.runs(entrant.peer):
        return
    with ledger.forgiving(entrant.peer):
        found = drain(entrant)
        for metric, value in zip(
            _METRICS, (found.per_s, found.wal_bytes, found.commits), strict=True
        ):
            ledger.put(Key(case, entrant.system, metric), turn, value)
        if found.remark:
            ledger.remarks.append(found.remark)


def _swept(ledger: Ledger) -> dict[str, Work]:
    """Drain ours and the floors with all that is swept; return the best options of each."""
    swept = {
        peer.name: [_entrant(peer, False, work) for work in SWEPT_WORK[peer.name]]
        for peer in (OURS, RAW, STAGED)
    }
    for turn in range(SWEEPS):
        for entrants in swept.values():
            for entrant in entrants:
                _play(ledger, SWEPT, turn, entrant)
    return {
        name: max(entrants, key=lambda e: ledger.median(Key(SWEPT, e.system, RATE))).work
        for name, entrants in swept.items()
    }


def _best(ledger: Ledger, quick: bool) -> Entrant | None:
    """Return the published peer that drained fastest in this sitting."""
    running = [_entrant(peer, quick, _FAST) for peer in PUBLISHED if ledger.runs(peer)]
    return max(running, key=lambda e: ledger.median(Key(ONE, e.system, RATE)), default=None)


def _paired(
    ledger: Ledger, ours: Entrant, floors: Sequence[Entrant], rival: Entrant | None, pairs: int
) -> list[Bar]:
    """Drain staged, ours, raw, the rival and ours with two workers, one right after the other."""
    raw, staged = floors
    twice = ours._replace(processes=2)

    def play(turn: int) -> None:
        # Beside ours as raw is; no bar needs it in the rounds that a close one takes.
        for entrant in (staged if turn < pairs else None, ours, raw, rival):
            if entrant is not None:
                _play(ledger, BESIDE, turn, entrant)
        _play(ledger, TWO, turn, twice)

    mine, floor = (Key(BESIDE, entrant.system, RATE) for entrant in (ours, staged))
    wanted = [
        ("drain against raw", mine, Key(BESIDE, raw.system, RATE), OF_RAW),
        ("2 worker processes against 1", Key(TWO, ours.system, RATE), mine, OF_ONE_PROCESS),
    ]
    if rival is not None:
        name = f"drain against {rival.peer.name}, the best peer"
        wanted.insert(0, (name, mine, Key(BESIDE, rival.system, RATE), OF_BEST))
    extended(
        pairs, play, lambda: any(close(ledger.ratio(a, b), limit) for _, a, b, limit in wanted)
    )
    ledger.compare(mine, floor)
    ledger.compare(floor, Key(BESIDE, raw.system, RATE))
    return [
        made
        for name, over, under, limit in wanted
        for made in bar(name, ledger.ratio(over, under), limit, at_least=True)
    ]


def _sustain(ledger: Ledger, ours: Entrant, lasting_s: float) -> None:
    """Produce at a part of the rate at which ours drains; note what came of it."""
    drained = ledger.median(Key(BESIDE, ours.system, RATE))
    per_call = max(1, round(SUSTAINED_PART * drained * _GAP_MS / 1e3))
    calls = math.ceil(lasting_s * 1e3 / _GAP_MS)
    load = Load(per_call * calls, clients=_PRODUCERS, bulk=True, batch=per_call, gap_ms=_GAP_MS)
    with server() as (dsn, directory), working(OURS, dsn, directory) as workers:
        setup(OURS, dsn)
        workers.start(ours.work._replace(trace=True))
        took_s = enqueue(OURS, dsn, load, patience_s=lasting_s + _PATIENCE_S)
        if not workers.wait(load.tasks, _PATIENCE_S):
            raise PeerFailed(f"ours work: {workers.handled} of {load.tasks} tasks were started")
        per_s = workers.rate.per_s
        workers.stop()
        waited_ms = [(each.started_ns - each.sent_ns) / 1e6 for each in workers.starts()]
    if took_s > _LATE * lasting_s:
        ledger.remarks.append(f"The producers took {took_s:.1f} s for {lasting_s:g} s of work.")
    for metric, value in (
        ("offered tasks/s", per_call * 1e3 / _GAP_MS),
        ("started tasks/s", per_s),
        ("p50 ms", percentile(waited_ms, 0.5)),
        ("p99 ms", percentile(waited_ms, 0.99)),
    ):
        ledger.put(Key(SUSTAINED, ours.system, metric), 0, value)


def _setting(quick: bool) -> str:
    tasks = QUICK_TASKS if quick else TASKS
    fewer: Sequence[str] = [
        f"{name} {min(fast, tasks):,} and {min(plain, tasks):,}"
        for name, (fast, plain) in REACH.items()
        if plain < tasks
    ]
    return (
        f"{tasks:,} no-op tasks of 20 orgs are enqueued first, those of ours and of staged into"
        " staging; then workers start, and ours is admitted, claimed, handled and acknowledged. The"
        " rate is from the first start of a handler to the last. Who is slower gets fewer tasks, so"
        f" that a measurement takes seconds (fast and default): {'; '.join(fewer)}."
        f" {_options_told(quick)}"
        f" Sustained: two producers offer {SUSTAINED_PART:.0%} of the drained rate, a batch every"
        f" {_GAP_MS:g} ms for {QUICK_SUSTAINED_S if quick else SUSTAINED_S:g} s beside one worker"
        " process; from the call that enqueues to the start of the handler"
    )


def _options_told(quick: bool) -> str:
    if quick:
        return "The batches of raw, staged and ours are given."
    floors = ", ".join(str(work.batch) for work in _FLOOR_WORK)
    ours = ", ".join(f"{work.batch}/{work.linger_ms:g} ms" for work in SWEPT_WORK[OURS.name])
    return (
        f"Options are the best of those that were tried: for raw and staged batches of {floors};"
        f" for ours `prefetch_max` and `ack_batch` with `ack_linger_s` ({ours})."
    )
