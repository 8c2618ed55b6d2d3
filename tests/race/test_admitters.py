"""Ten sessions that each believe they lead: caps hold, and no epoch admits after a younger one."""

from __future__ import annotations

import random
from concurrent.futures import Future
from functools import partial
from threading import Event
from typing import Any

from orchestrator.errors import LeadershipLost
from tests.support.rivals import check_terms, stage_capped, until_all_ended, watch, work
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader
from tests.support.waiting import PATIENCE_S, until

ADMITTERS = 10
CAPS = {"a": 3, "b": 5, "c": 2}


def admit(stage: Stage, seed: int, over: Event) -> int:
    """Stand and admit again and again; return how often the fence refused."""
    draw = random.Random(seed)
    refused = 0
    while not over.is_set():
        before = ticks(stage)
        leader = stage.candidate()
        try:
            leader.elect(lock=False)
            for _ in range(draw.randint(1, 3)):
                tick_until_something_is_admitted(leader, over)
        except LeadershipLost:
            refused += 1
        finally:
            leader.close()
        # Then it is somebody else's turn, or they would depose one another for ever.
        until(partial(moved_on, stage, over, before), "somebody admits")
    return refused


def tick_until_something_is_admitted(leader: SteppedLeader, over: Event) -> None:
    while not over.is_set() and not leader.tick().admitted:
        pass


def moved_on(stage: Stage, over: Event, seen: int) -> bool:
    return over.is_set() or ticks(stage) > seen


def ticks(stage: Stage) -> int:
    return int(stage.one("select count(*) from orchestrator.tick_log"))


def test_ten_would_be_leaders_admit_no_task_twice_and_none_over_a_cap(stage: Stage) -> None:
    staged = stage_capped(stage, CAPS, 25)
    over = Event()
    admitters = [stage.start(admit, stage, seed, over) for seed in range(ADMITTERS)]
    others: list[Future[Any]] = [
        stage.start(work, stage, over),
        stage.start(watch, stage, CAPS, over),
    ]
    running: list[Future[Any]] = [*admitters, *others]
    until_all_ended(stage, staged, running, over)
    for other in others:
        other.result(PATIENCE_S)
    assert sum(admitter.result(PATIENCE_S) for admitter in admitters) > 0
    check_terms(stage, staged)
