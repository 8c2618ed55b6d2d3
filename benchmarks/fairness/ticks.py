"""The time of a real tick with 100 and with 100,000 orgs staged, read from `tick_log`.

Two queues on one private server, each with a replica of its own and as many tasks staged. They work
in turns: a hundred tasks are claimed and ended in one statement, and the next tick settles and
admits a hundred: see `benchmarks.turns`.
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.estimates import Bar, Estimate, Key, estimate
from benchmarks.stage import Stage, stage
from benchmarks.turns import Lane, Turn, lane, start_leader, take_turns
from orchestrator.model import TaskSpec

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
TURNS = 10
ROUNDS = 40
_QUICK_PART = 10
_PORTION = 5_000
# Ticks of the first turn find a cold cache and unsettled statistics.
_WARM_UP = 20


def measure(quick: bool) -> tuple[dict[Key, Estimate], list[Bar]]:
    """Return the time of ticks with few and with many orgs, and the bars on their ratios.

    Turns stand for seeds here: the interval is over pairs of turns.
    """
    many, turns, rounds = (MANY // _QUICK_PART, 2, 15) if quick else (MANY, TURNS, ROUNDS)
    tasks = TASKS // (_QUICK_PART if quick else 1)
    with stage() as on, ExitStack() as open_lanes:
        lanes = []
        for name, count in (("few", FEW), ("many", many)):
            lanes.append(open_lanes.enter_context(lane(on, name)))
            start_leader(on, name)
            _stage_work(on, lanes[-1], count, tasks)
        on.connection.execute("vacuum analyze")
        take_turns(lanes, _WARM_UP)
        took = [take_turns(lanes, rounds) for _ in range(turns)]
    return _measures(took, many), _bars(took)


def _stage_work(on: Stage, to: Lane, count: int, tasks: int) -> None:
    """Stage in portions, with work in between: a leader that sleeps would find all of it at once,
    and take too long over its first tick.
    """
    for first in range(0, tasks, _PORTION):
        numbers = range(first, min(tasks, first + _PORTION))
        on.client.enqueue_many(
            [TaskSpec(name="noop", org=f"org-{n % count}", queue=to.name) for n in numbers]
        )
        to.work_off()


def _ratio(turn: dict[str, Turn], part: float) -> float:
    return turn["many"].tick_us(part) / turn["few"].tick_us(part)


def _measures(took: list[dict[str, Turn]], many: int) -> dict[Key, Estimate]:
    measures: dict[Key, Estimate] = {}
    for name, count in (("few", FEW), ("many", many)):
        for metric, part in (("median, us", 0.5), ("p99, us", 0.99)):
            case = f"{CASE}, {count:,} orgs"
            values = [turn[name].tick_us(part) for turn in took]
            measures[Key(case, RULE, metric)] = estimate(values)
        measures[Key(f"{CASE}, {count:,} orgs", RULE, "ticks in a turn")] = estimate(
            [float(len(turn[name].ticks_us)) for turn in took]
        )
    return measures


def _bars(took: list[dict[str, Turn]]) -> list[Bar]:
    return [
        Bar(name, estimate([_ratio(turn, part) for turn in took]), 1.5)
        for name, part in ((RATIO_P99, 0.99), (RATIO_MEDIAN, 0.5))
    ]
