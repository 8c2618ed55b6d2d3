"""The time of a real tick with 100 and with 100,000 orgs staged, read from `tick_log`.

Two queues on one private server, each with a replica of its own and as many tasks staged. They work
in turns: a hundred tasks are claimed and ended in one statement, and the next tick settles and
admits a hundred. Only ticks of exactly that size are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import uuid4

import psycopg

from benchmarks.fairness.estimates import Bar, Estimate, Key, estimate
from benchmarks.stage import Stage, stage, wait_for
from orchestrator.fairness.measures import percentile
from orchestrator.model import AttemptStatus, Claim, TaskSpec
from orchestrator.store import leadership, orgs, queue
from orchestrator.store.leadership import Leadership
from orchestrator.store.names import worker_application
from orchestrator.store.queue import Ending
from orchestrator.store.sql import run as drive

CASE = "tick that settles and admits 100 on PostgreSQL"
TITLE = "The tick on a real database"
SETTING = (
    "Two queues on one PostgreSQL, 100,000 tasks staged in each, of 100 orgs and of 100,000; ticks"
    " that settle 100 tasks and admit 100, `tick_us` of `tick_log`; intervals over turns of the two"
)
RATIO_P99 = "tick, 100,000 orgs / 100, p99"
RATIO_MEDIAN = "tick, 100,000 orgs / 100, median"
RULE = "weighted"
FEW, MANY = 100, 100_000
TASKS = 100_000
ADMISSIONS = 100
TURNS = 10
ROUNDS = 40
_QUICK_PART = 20
_PORTION = 5_000
# Ticks of the first turn find a cold cache and unsettled statistics.
_WARM_UP = 20
_ROUND_PATIENCE_S = 20.0
_LEASE_S = 600.0


def measure(quick: bool) -> tuple[dict[Key, Estimate], list[Bar]]:
    """Return the time of ticks with few and with many orgs, and the bars on their ratios.

    Turns stand for seeds here: the interval is over pairs of turns.
    """
    many, turns, rounds = (MANY // _QUICK_PART, 2, 15) if quick else (MANY, TURNS, ROUNDS)
    tasks = TASKS // (_QUICK_PART if quick else 1)
    with stage() as on:
        for name in ("few", "many"):
            with on.connection.transaction():
                made = orgs.set_queue(name, ready_max=ADMISSIONS, actor="benchmark")
                drive(on.connection, made)
        ids = {"few": _queue_id(on, "few"), "many": _queue_id(on, "many")}
        with _announced(on, list(ids.values())):
            for name, count in (("few", FEW), ("many", many)):
                _start(on, name)
                _stage_work(on, ids[name], name, count, tasks)
            on.connection.execute("vacuum analyze")
            _turn(on, ids, _WARM_UP)
            took = [_turn(on, ids, rounds) for _ in range(turns)]
    return _measures(took, many), _bars(took)


Turn = dict[str, list[float]]


def _start(on: Stage, name: str) -> None:
    """Start a replica for one queue, and wait until it leads."""
    on.processes.start("run", "--queue", name)

    def leads() -> bool:
        found: list[Leadership] = drive(on.connection, leadership.leaders())
        return any(leader.alive for leader in found if leader.name == name)

    wait_for(leads, "a leader")


def _stage_work(on: Stage, queue_id: int, name: str, count: int, tasks: int) -> None:
    """Stage in portions, with work in between: a leader that sleeps would find all of it at once,
    and take too long over its first tick.
    """
    for first in range(0, tasks, _PORTION):
        numbers = range(first, min(tasks, first + _PORTION))
        on.client.enqueue_many(
            [TaskSpec(name="noop", org=f"org-{n % count}", queue=name) for n in numbers]
        )
        _work_off(on, queue_id, name)


def _queue_id(on: Stage, name: str) -> int:
    row = on.connection.execute(
        "select id from orchestrator.queue where name = %s", [name]
    ).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def _announced(on: Stage, ids: list[int]) -> Iterator[None]:
    """Announce a worker for a hundred tasks in each queue, so that the window is as large."""
    with ExitStack() as sessions:
        for queue_id in ids:
            name = worker_application(queue_id, ADMISSIONS)
            sessions.enter_context(psycopg.connect(on.dsn, application_name=name))
        yield


def _turn(on: Stage, ids: dict[str, int], rounds: int) -> Turn:
    """Let both queues work, one after the other; return the microseconds of their ticks."""
    took: Turn = {}
    for name, queue_id in ids.items():
        seen = _last_admission(on, queue_id)
        for _ in range(rounds):
            _work_off(on, queue_id, name)
        took[name] = _ticks_us(on, queue_id, seen)
    return took


def _work_off(on: Stage, queue_id: int, name: str) -> None:
    """Claim a hundred tasks, and end them together."""
    claims: list[Claim] = []

    def all_claimed() -> bool:
        claims.extend(
            drive(
                on.connection,
                queue.claim(
                    queue_id,
                    name,
                    uuid4(),
                    limit=ADMISSIONS - len(claims),
                    lease_s=_LEASE_S,
                    worker="benchmark",
                ),
            )
        )
        return len(claims) == ADMISSIONS

    wait_for(all_claimed, "a hundred admissions", _ROUND_PATIENCE_S)
    endings = [
        Ending(claim.dispatch_key, claim.claim_id, AttemptStatus.SUCCEEDED, cost_us=10_000)
        for claim in claims
    ]
    drive(on.connection, queue.finish(queue_id, endings, worker="benchmark"))


def _last_admission(on: Stage, queue_id: int) -> int:
    row = on.connection.execute(
        "select coalesce(max(admit_seq), 0) from orchestrator.tick_log where queue = %s",
        [queue_id],
    ).fetchone()
    assert row is not None
    return int(row[0])


def _ticks_us(on: Stage, queue_id: int, after: int) -> list[float]:
    rows = on.connection.execute(
        "select tick_us from orchestrator.tick_log where queue = %s and admit_seq > %s"
        "   and admitted = %s and settled = %s order by admit_seq",
        [queue_id, after, ADMISSIONS, ADMISSIONS],
    ).fetchall()
    return sorted(float(tick_us) for (tick_us,) in rows)


def _ratio(turn: Turn, part: float) -> float:
    return percentile(turn["many"], part) / percentile(turn["few"], part)


def _measures(took: list[Turn], many: int) -> dict[Key, Estimate]:
    measures: dict[Key, Estimate] = {}
    for name, count in (("few", FEW), ("many", many)):
        for metric, part in (("median, us", 0.5), ("p99, us", 0.99)):
            case = f"{CASE}, {count:,} orgs"
            values = [percentile(turn[name], part) for turn in took]
            measures[Key(case, RULE, metric)] = estimate(values)
        measures[Key(f"{CASE}, {count:,} orgs", RULE, "ticks in a turn")] = estimate(
            [float(len(turn[name])) for turn in took]
        )
    return measures


def _bars(took: list[Turn]) -> list[Bar]:
    return [
        Bar(name, estimate([_ratio(turn, part) for turn in took]), 1.5)
        for name, part in ((RATIO_P99, 0.99), (RATIO_MEDIAN, 0.5))
    ]
