"""What 10 tasks of one org wait behind 50,000 of another, beside other queues."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.peers.peer import Load, Work, enqueue, enqueueing, setup, working
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
)
from benchmarks.peers.report import Start
from benchmarks.speed import dispatch
from benchmarks.speed.compare import PAIRS, Entrant, Ledger, bar, preload, server
from benchmarks.speed.dispatch import Behind
from benchmarks.speed.result import Key, Result

BACKLOG, LATE = 50_000, 10
NOISY_ORG, LATE_ORG = "A", "B"
# Beyond the ready window: what the workers had claimed when it came.
MARGIN = 20
CASE = "position and dwell of B's last task"
DISPATCH = "what ours was behind, by the database"
LEFT, AHEAD, DWELL = "backlog of A when B came", "tasks of A started before it", "dwell ms"
RATE, WINDOW = "tasks/s", "ready window"
IN_LINE, READY = "claimed already, not started", "ready, not claimed"
AFTER, CLAIMED = "admitted after", "claimed before it"
BEYOND = "claimed beyond the ready window"
# The org that comes late does so in the middle of a drain at full rate.
_UNDER_WAY = 1_000
# What each can do in about eight seconds, where that is less than all.
_REACH: Mapping[str, int] = {
    PGQUEUER.name: 25_000,
    PROCRASTINATE.name: 1_200,
    OBAN.name: 5_000,
    DBOS.name: 1_500,
}
_FAIR_REACH: Mapping[str, int] = {PG_BOSS.name: 20_000, DBOS.name: 400}
# With less of A's backlog left there was nothing to be behind.
_LEFT_MIN_PART = 0.1
_PATIENCE_S = 30.0
# B's calls: so many, so far apart; a client that is started in the middle would come too late.
_CALLS, _GAP_S = 24, 0.25
SETTING = (
    f"A has a backlog of {BACKLOG:,} tasks (who is slower, fewer); while one worker process drains"
    f" it, B enqueues {LATE} tasks in one call, and again every {_GAP_S * 1e3:g} ms. Of the first"
    " call in the middle of the drain: the tasks of A whose handlers started between the return of"
    " the call and the start of B's last one, and the dwell, from the beginning of the call to that"
    " start. Of ours also where those tasks were when the call returned: in the worker's own line"
    " (claimed, not started), ready (admitted, not claimed), or not admitted yet; the ready window"
    " is the median of the ticks within 100 ms of the return. The rate is that of A's tasks. Others"
    " run in their fast configuration, and once more with what they offer for fairness"
)
_NOTES = (
    "ours: the bar is held against the tasks of A that were claimed between the return of B's call"
    " and the claim of B's last task, the order in which the database dispatched (`dispatch_key`"
    " and `claimed_at` of `task_attempt`): what was admitted by then and not claimed, and what was"
    " admitted after. What the worker had claimed before, its own line, is beyond the reach of any"
    " admission; it is the difference to what was started in between, and is reported beside it.",
)


class Place(NamedTuple):
    """What the starts of handlers tell of one call of the late org."""

    number: int
    returned_ns: int
    # Of A's tasks: started when the call returned, left then, started before B's last.
    started: int
    left: int
    ahead: int
    dwell_ms: float
    per_s: float


class Found(NamedTuple):
    """What the late org went through; `behind` only of ours."""

    place: Place
    behind: Behind | None


def measure(quick: bool) -> Result:
    """Return the positions and dwells of all, and whether ours held its bound."""
    ledger = Ledger()
    for turn in range(2 if quick else PAIRS):
        _play(ledger, Entrant(OURS, Work(trace=True), BACKLOG), turn)
    for peer in (RAW, GRAPHILE) if quick else (RAW, *PUBLISHED):
        plain = Entrant(peer, Work(fast=True, trace=True), _REACH.get(peer.name, BACKLOG))
        _play(ledger, plain, 0)
        if peer.fair and not quick:
            fair = Work(fast=True, trace=True, fair=True)
            _play(ledger, Entrant(peer, fair, _FAIR_REACH[peer.name]), 0)
    beyond = ledger.estimates().get(Key(DISPATCH, OURS.name, BEYOND))
    bars = bar(
        "B's last task: tasks claimed before it, beyond the ready window",
        beyond,
        MARGIN,
        at_least=False,
    )
    title = "Ten tasks behind the backlog of another org"
    return Result("noisy", title, SETTING, ledger.estimates(), bars, [*ledger.notes(), *_NOTES])


def _play(ledger: Ledger, entrant: Entrant, turn: int) -> None:
    if not ledger.runs(entrant.peer):
        return
    system = entrant.peer.name
    if entrant.work.fair:
        system = f"{system}, {entrant.peer.fair}"
    with ledger.forgiving(entrant.peer):
        found = _found(entrant)
        if found is None:
            ledger.remarks.append(f"{system}: no call of B came and was served during A's drain.")
            return
        _put(ledger, system, turn, found)


def _put(ledger: Ledger, system: str, turn: int, found: Found) -> None:
    place, behind = found
    for metric, value in (
        (LEFT, place.left),
        (AHEAD, place.ahead),
        (DWELL, place.dwell_ms),
        (RATE, place.per_s),
    ):
        ledger.put(Key(CASE, system, metric), turn, value)
    if behind is None:
        return
    for metric, count in (
        (IN_LINE, behind.in_line),
        (READY, behind.ready),
        (AFTER, behind.after),
        (CLAIMED, behind.claimed),
        (WINDOW, behind.window),
        (BEYOND, behind.claimed - behind.window),
    ):
        ledger.put(Key(DISPATCH, system, metric), turn, count)


def _found(entrant: Entrant) -> Found | None:
    peer, fair, tasks = entrant.peer, entrant.work.fair, entrant.tasks
    late = Load(LATE * _CALLS, org=LATE_ORG, bulk=True, batch=LATE, gap_ms=_GAP_S * 1e3, fair=fair)
    with server() as (dsn, directory), working(peer, dsn, directory) as workers:
        setup(peer, dsn)
        enqueue(peer, dsn, preload(peer, tasks, NOISY_ORG)._replace(fair=fair))
        if peer.leads:
            # They wait for what is admitted; the others begin at once.
            workers.start(entrant.work, lead=False)
        with enqueueing(peer, dsn, late) as finish:
            if peer.leads:
                workers.lead()
            else:
                workers.start(entrant.work)
            returned_ns = finish(_CALLS * _GAP_S + _PATIENCE_S)
        workers.wait(tasks + late.tasks, _PATIENCE_S)
        workers.stop()
        place = judged(workers.starts(), returned_ns, tasks)
        if place is None:
            return None
        return Found(place, _behind(dsn, place) if peer is OURS else None)


def _behind(dsn: str, place: Place) -> Behind | None:
    call = range(place.number * LATE, (place.number + 1) * LATE)
    at_s = dispatch.wall_s(place.returned_ns)
    return dispatch.behind(dispatch.read(dsn), LATE_ORG, call, at_s, place.started)


def judged(starts: Sequence[Start], returned_ns: Sequence[int], tasks: int) -> Place | None:
    """Return the place of B's first call in the middle of the drain of A's `tasks`.

    None where no such call was served to the end.
    """
    noisy_ns = sorted(start.started_ns for start in starts if start.org == NOISY_ORG)
    calls: dict[int, list[Start]] = {}
    for start in starts:
        if start.org == LATE_ORG:
            calls.setdefault(start.n // LATE, []).append(start)
    for number in sorted(calls):
        call, came_ns = calls[number], returned_ns[number]
        last_ns = max(start.started_ns for start in call)
        before = bisect_right(noisy_ns, came_ns)
        under_way = before >= min(_UNDER_WAY, tasks // 10)
        if len(call) == LATE and under_way and tasks - before >= _LEFT_MIN_PART * tasks:
            # It may have been served to the end before the call came back.
            ahead = max(0, bisect_right(noisy_ns, last_ns) - before)
            dwell_ms = (last_ns - min(start.sent_ns for start in call)) / 1e6
            per_s = (len(noisy_ns) - 1) / (noisy_ns[-1] - noisy_ns[0]) * 1e9
            return Place(number, came_ns, before, tasks - before, ahead, dwell_ms, per_s)
    return None
