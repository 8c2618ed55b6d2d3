"""`orgs`: what the number of orgs with a backlog makes of a tick, of throughput, of a takeover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress

from benchmarks.estimates import Bar, Estimate, exact, median, ratio
from benchmarks.fairness.replicas import replicas
from benchmarks.load import settle, stage_tasks
from benchmarks.speed.holding import stage_holding, start_workers
from benchmarks.speed.result import OURS, Key, Result
from benchmarks.speed.takeovers import PATIENCE_S, Takeover, strike_leaders
from benchmarks.stage import stage
from benchmarks.turns import ADMISSIONS, Lane, Turn, lane, start_leader, take_turns

ORGS = (10, 1_000, 100_000)
TASKS = 100_000
TURNS, ROUNDS = 10, 40
QUICK_TURNS, QUICK_ROUNDS = 5, 10
# Ticks of the first turn find a cold cache and plans that are not made yet.
_WARM_UP = 20
_QUICK_PART = 10
TAKEOVERS, QUICK_TAKEOVERS = 7, 3
TAKEOVER_TASKS = 1_000_000
REPLICAS = 2
CONCURRENCY = 4
HOLD_S = 0.05
TICK_BAR = 1.5
TAKEOVER_BAR_S = 5.0
P50, P99 = "tick p50, ms", "tick p99, ms"

Turns = Sequence[Mapping[str, Turn]]


def measure(quick: bool) -> Result:
    """Return the ticks and admissions by number of orgs, the takeovers with the most, the bars."""
    part = _QUICK_PART if quick else 1
    counts = (*ORGS[:-1], ORGS[-1] // part)
    took = _turns(counts, TASKS // part, quick)
    takeovers = _takeovers(counts[-1], TAKEOVER_TASKS // part, quick)
    # Where none came in all that time, it is at least as much.
    slowest = exact(max((takeover.seconds for takeover in takeovers), default=PATIENCE_S))
    case = _takeover_case(counts[-1], TAKEOVER_TASKS // part)
    p50 = _ratio(took, counts[-1], counts[0])
    bars = [
        Bar(f"tick p50, {counts[-1]:,} orgs / {counts[0]}, equal admissions", p50, TICK_BAR),
        Bar(f"{case}: the slowest, s", slowest, TAKEOVER_BAR_S, why="" if takeovers else _NEVER),
    ]
    measures = _tick_measures(took, counts)
    if takeovers:
        measures |= _takeover_measures(takeovers, case)
    title = "Ten orgs with a backlog, and a hundred thousand"
    return Result("orgs", title, _setting(part, quick), measures, bars, _NOTES)


def _turns(counts: Sequence[int], tasks: int, quick: bool) -> Turns:
    """Let three queues work in turns; return the turns by the name of the queue."""
    turns, rounds = (QUICK_TURNS, QUICK_ROUNDS) if quick else (TURNS, ROUNDS)
    with stage() as on, ExitStack() as open_lanes:
        lanes: list[Lane] = []
        for orgs in counts:
            lanes.append(open_lanes.enter_context(lane(on, orgs_case(orgs))))
            stage_tasks(on.connection, tasks, orgs, queue=lanes[-1].queue)
        settle(on.connection)
        for each in lanes:
            start_leader(on, each.name)
        take_turns(lanes, _WARM_UP)
        return [take_turns(lanes, rounds) for _ in range(turns)]


def _takeovers(orgs: int, tasks: int, quick: bool) -> list[Takeover]:
    """Kill leaders of so many orgs while another one stands by, with a little work under way.

    Return nothing where no leader came into office, before a kill or after one.
    """
    with stage() as on:
        stage_holding(on, tasks, orgs, HOLD_S)
        settle(on.connection)
        start_workers(on, 1, concurrency=CONCURRENCY)
        with replicas(on.dsn, REPLICAS) as standing, suppress(TimeoutError):
            return strike_leaders(on, standing, REPLICAS, QUICK_TAKEOVERS if quick else TAKEOVERS)
    return []


def orgs_case(orgs: int) -> str:
    """Return the name of the case, and of its queue, with so many orgs."""
    return f"{orgs:,} orgs"


def _takeover_case(orgs: int, tasks: int) -> str:
    return f"takeover, {orgs:,} orgs and {tasks:,} staged"


def _ratio(took: Turns, many: int, few: int) -> Estimate:
    return ratio(
        [turn[orgs_case(many)].tick_us(0.5) for turn in took],
        [turn[orgs_case(few)].tick_us(0.5) for turn in took],
    )


def _tick_measures(took: Turns, counts: Sequence[int]) -> dict[Key, Estimate]:
    measures: dict[Key, Estimate] = {}
    for orgs in counts:
        turns = [turn[orgs_case(orgs)] for turn in took]
        for metric, values in (
            (P50, [turn.tick_us(0.5) / 1e3 for turn in turns]),
            (P99, [turn.tick_us(0.99) / 1e3 for turn in turns]),
            ("admissions/s", [turn.admissions_per_s for turn in turns]),
            ("ticks in a turn", [float(len(turn.ticks_us)) for turn in turns]),
        ):
            measures[Key(orgs_case(orgs), OURS, metric)] = median(values)
    for many in counts[1:]:
        for few in counts[: counts.index(many)]:
            case = f"{many:,} orgs against {few:,}"
            measures[Key(case, OURS, "tick p50, ratio")] = _ratio(took, many, few)
    return measures


def _takeover_measures(found: Sequence[Takeover], case: str) -> dict[Key, Estimate]:
    return {
        Key(case, OURS, metric): median(values)
        for metric, values in (
            ("kill to the next admission, s", [one.seconds for one in found]),
            ("of it until the election, s", [one.election_s for one in found]),
            ("of it loading the cut, s", [one.loading_s for one in found]),
            ("of it the first tick, s", [one.tick_s for one in found]),
        )
    }


def _setting(part: int, quick: bool) -> str:
    return (
        f"Ticks: three queues on one server, {TASKS // part:,} tasks staged in each, with a leader"
        f" and {ADMISSIONS} slots each. They work in turns of {QUICK_ROUNDS if quick else ROUNDS}"
        f" rounds: one client claims {ADMISSIONS} tasks and ends them together, so that each tick"
        f" settles {ADMISSIONS} and admits {ADMISSIONS}; `tick_us` of `tick_log`, ratios of turns"
        " one right after the other. Takeover: the leader is ended with SIGKILL while"
        f" {REPLICAS - 1} more replica stands by and {CONCURRENCY / HOLD_S:.0f} tasks a second run;"
        " by the database's clock."
    )


_NEVER = f"no leader admitted anything within {PATIENCE_S:.0f} s, so this is what was waited"
_NOTES = (
    f"With 10 orgs a tick of {ADMISSIONS} admissions touches 10 orgs and saves as many rows, with"
    f" more orgs it touches {ADMISSIONS}: the ratio of 100,000 to 1,000 shows what the number of"
    " orgs alone costs.",
)
