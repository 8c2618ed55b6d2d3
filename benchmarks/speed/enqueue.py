"""How fast work is taken in, beside other queues: one by one from 1 and 16 clients, and in bulk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import psycopg

from benchmarks.counters import Meter
from benchmarks.estimates import Bar
from benchmarks.peers import peer as drivers
from benchmarks.peers.peer import Load, Peer, setup
from benchmarks.peers.registry import (
    DBOS,
    EVERY,
    GRAPHILE,
    OBAN,
    OURS,
    PG_BOSS,
    PGQUEUER,
    PROCRASTINATE,
    PUBLISHED,
    RAW,
    STAGED,
)
from benchmarks.speed.compare import PAIRS, Ledger, bar, close, extended, server
from benchmarks.speed.result import Key, Result

OF_RAW, OF_BEST = 0.8, 1.0
RATE, WAL, COMMITS = "tasks/s", "WAL bytes per task", "commits per task"
_PATIENCE_S = 30.0
# For a first look those that may be the best.
_QUICK = (OURS, RAW, STAGED, GRAPHILE, PG_BOSS, PGQUEUER)


class Case(NamedTuple):
    """A way to enqueue; `tasks` as many as most peers do in a few seconds."""

    name: str
    tasks: int
    clients: int = 1
    bulk: bool = False
    # Of those that are several times slower.
    fewer: Mapping[str, int] = {}


ONE = Case("1 client, one by one", 1_500)
MANY = Case("16 clients, one by one", 6_000, clients=16, fewer={OBAN.name: 3_000, DBOS.name: 1_500})
BULK = Case(
    "in bulk",
    50_000,
    bulk=True,
    fewer={OBAN.name: 5_000, PROCRASTINATE.name: 20_000, DBOS.name: 1_500},
)
CASES = (ONE, MANY, BULK)


def measure(quick: bool) -> Result:
    """Return the rates of all, and how ours compares."""
    ledger = Ledger()
    for peer in _QUICK if quick else EVERY:
        _play(ledger, peer, CASES, 0, quick)
    best = max(
        (peer for peer in PUBLISHED if ledger.runs(peer) and peer.bulk),
        key=lambda peer: ledger.median(Key(BULK.name, peer.name, RATE)),
        default=None,
    )
    bars = _paired(ledger, best, 2 if quick else PAIRS, quick)
    return Result(
        "enqueue", "Taking work in", _setting(quick), ledger.estimates(), bars, ledger.notes()
    )


def _paired(ledger: Ledger, best: Peer | None, pairs: int, quick: bool) -> list[Bar]:
    """Enqueue with ours, the floors and the best peer in turn; the first round was that of all."""
    beside = [(ONE, RAW, OF_RAW), (MANY, RAW, OF_RAW)]
    if best is not None:
        beside.append((BULK, best, OF_BEST))

    def play(turn: int) -> None:
        for case, other, limit in beside:
            # Past the first rounds only what is still open.
            if turn < pairs or near(case, other, limit)():
                if case is ONE and turn < pairs:
                    _play(ledger, STAGED, [case], turn, quick)
                _play(ledger, OURS, [case], turn, quick)
                _play(ledger, other, [case], turn, quick)

    def near(case: Case, other: Peer, limit: float) -> Callable[[], bool]:
        return lambda: close(ledger.ratio(_key(case, OURS), _key(case, other)), limit)

    extended(pairs, play, lambda: any(near(*each)() for each in beside))
    ledger.compare(_key(ONE, OURS), _key(ONE, STAGED))
    return [
        made
        for case, other, limit in beside
        for made in bar(
            f"{case.name}, against {other.name}" + (", the best peer" if other is best else ""),
            ledger.ratio(_key(case, OURS), _key(case, other)),
            limit,
            at_least=True,
        )
    ]


def _key(case: Case, peer: Peer) -> Key:
    return Key(case.name, peer.name, RATE)


def _play(ledger: Ledger, peer: Peer, cases: Sequence[Case], turn: int, quick: bool) -> None:
    """Enqueue in each of the ways on one fresh server, and note the rates."""
    if not ledger.runs(peer):
        return
    with (
        ledger.forgiving(peer),
        server() as (dsn, _),
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        setup(peer, dsn)
        meter = Meter(connection)
        for case in cases:
            if case.bulk and not peer.bulk:
                continue
            tasks = case.fewer.get(peer.name, case.tasks) // (5 if quick else 1)
            before = meter.read()
            took_s = drivers.enqueue(
                peer, dsn, Load(tasks, clients=case.clients, bulk=case.bulk), patience_s=_PATIENCE_S
            )
            ledger.put(_key(case, peer), turn, tasks / took_s)
            spent = meter.since(before)
            ledger.put(Key(case.name, peer.name, WAL), turn, spent.wal_bytes / tasks)
            ledger.put(Key(case.name, peer.name, COMMITS), turn, spent.transaction_ids / tasks)


def _setting(quick: bool) -> str:
    part = 5 if quick else 1
    return (
        f"No-op tasks of 20 orgs with a small payload, nobody works on them: {ONE.tasks // part:,}"
        f" from one client, {MANY.tasks // part:,} from 16 clients of one process, one call for"
        " each task. Ours are 16 threads that share one client, as its documentation says: calls"
        " that come while a statement is under way share the next one and its commit, so there are"
        " fewer commits than tasks. raw and staged have a connection for each thread, and make one"
        " statement and one commit for each call. Who enqueues into ours or staged looks whether to"
        " notify the process that admits or moves: none runs here, so none is notified."
        f" {BULK.tasks // part:,} through the bulk path of each, in calls"
        " of the size that suits it. Who is much slower gets fewer. Connecting is not timed; the"
        " rate is from the first call to the return of the last"
    )
