"""Who is asked to yield, and that being critical buys nothing from other orgs."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fairness import StrictScheduler, WeightedScheduler
from orchestrator.fairness.preemption import Running, requests
from orchestrator.model import CostMode, after
from tests.unit.drawn import histories, worlds
from tests.unit.histories import ORGS, WORKLOADS, Correct, Event, Tick, Trial, World, law

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def task(
    key: int, priority: int, *, ran_s: float = 0.0, asked: bool = False, cancelled: bool = False
) -> Running:
    return Running("a", UUID(int=key), key, key, priority, after(NOW, -ran_s), asked, cancelled)


def asked(*running: Running, waiting: tuple[int, ...] = (10,), free: int = 0) -> list[int]:
    return [each.task_id for each in requests(waiting, running, free).ask]


def withdrawn(*running: Running, waiting: tuple[int, ...] = (10,), free: int = 0) -> list[int]:
    return [each.task_id for each in requests(waiting, running, free).withdraw]


def test_the_lowest_priority_is_asked_and_among_equals_who_loses_least() -> None:
    assert asked(task(1, 7), task(2, 3, ran_s=60), task(3, 3, ran_s=5), task(4, 9)) == [3]


def test_nobody_of_equal_or_higher_priority_is_asked() -> None:
    assert asked(task(1, 5), task(2, 8), waiting=(5,)) == []
    assert asked(task(1, 4), task(2, 8), waiting=(5,)) == [1]


def test_each_waiting_task_has_one_asked_unless_a_slot_is_free() -> None:
    running = [task(key, key) for key in range(1, 6)]
    assert asked(*running, waiting=(10, 10)) == [1, 2]
    assert asked(*running, waiting=(10, 10), free=1) == [1]
    assert asked(*running, waiting=()) == []


def test_who_was_asked_or_stops_anyway_is_enough() -> None:
    assert asked(task(1, 3, asked=True), task(2, 2)) == []
    assert asked(task(1, 9, cancelled=True), task(2, 2)) == []
    assert asked(task(1, 3, asked=True), task(2, 2), waiting=(10, 10)) == [2]


def test_a_request_that_nobody_needs_is_withdrawn_the_higher_priority_first() -> None:
    two = (task(1, 3, asked=True), task(2, 6, asked=True))
    assert withdrawn(*two) == [2]
    assert withdrawn(*two, free=1) == [1, 2]
    assert withdrawn(*two, waiting=(10, 10)) == []
    # It would yield to a task that it goes before.
    assert withdrawn(task(1, 6, asked=True), waiting=(5,)) == [1]


running_tasks = st.lists(
    st.builds(
        lambda priority, ran_s, asked, cancelled: (priority, ran_s, asked, cancelled),
        st.integers(1, 10),
        st.integers(0, 5),
        st.booleans(),
        st.sampled_from((False, False, False, True)),
    ),
    max_size=8,
).map(
    lambda drawn: [
        task(key, priority, ran_s=ran_s, asked=was, cancelled=cancelled)
        for key, (priority, ran_s, was, cancelled) in enumerate(drawn)
    ]
)
waiting_tasks = st.lists(st.integers(1, 10), max_size=6)


@law
@given(waiting_tasks, running_tasks, st.integers(0, 3))
def test_no_more_are_asked_than_wait_and_each_is_below_one_that_does(
    waiting: list[int], running: list[Running], free: int
) -> None:
    told = requests(waiting, running, free)
    stopping = sum(each.cancelled for each in running)
    open_ = [each for each in running if each.asked and not each.cancelled]
    open_ = [each for each in open_ if each not in told.withdraw] + told.ask
    assert len(open_) <= max(0, len(waiting) - free - stopping)
    # Matched from below: the n-th lowest request is below the n-th lowest of as many that wait.
    highest = sorted(waiting, reverse=True)[: len(open_)]
    for request, above in zip(
        sorted(each.priority for each in open_), sorted(highest), strict=True
    ):
        assert request < above
    left = [each for each in running if not (each.asked or each.cancelled or each in told.ask)]
    if told.ask and left:
        assert max(e.priority for e in told.ask) <= min(e.priority for e in left)


@law
@given(waiting_tasks, running_tasks, st.integers(0, 3), st.randoms(use_true_random=False))
def test_what_was_decided_is_not_decided_again_in_whatever_order_it_is_read(
    waiting: list[int], running: list[Running], free: int, shuffled: random.Random
) -> None:
    told = requests(waiting, running, free)
    obeyed = [
        each._replace(asked=(each.asked or each in told.ask) and each not in told.withdraw)
        for each in running
    ]
    shuffled.shuffle(obeyed)
    assert requests(waiting, obeyed, free) == ([], [])


# The scheduler --------------------------------------------------------------------------------


@law
@given(worlds(CostMode.COUNT), histories(), st.randoms(use_true_random=False))
def test_marking_tasks_critical_never_changes_the_sequence_of_orgs(
    world: World, history: list[Event], drawn: random.Random
) -> None:
    twin = World(dict(world.config), world.workloads, world.cost_mode)
    # What is corrected of a flow depends on what was taken of it.
    events = [event for event in history if not isinstance(event, Correct)]
    events = [e._replace(reserve=0) if isinstance(e, Tick | Trial) else e for e in events]

    def mark(world: World, _: object) -> None:
        for org in ORGS:
            for workload in WORKLOADS:
                if org in world.scheduler.orgs and drawn.random() < 0.3:
                    world.scheduler.set_critical(org, workload, drawn.randint(0, 3))

    order = [pick.org for pick in world.run(events).picks]
    assert [pick.org for pick in twin.run(events, mark).picks] == order


def of_one_org(scheduler: WeightedScheduler | StrictScheduler, slots: int) -> list[str]:
    return [pick.workload for pick in scheduler.plan(slots).picks]


def with_two_flows(scheduler: WeightedScheduler | StrictScheduler) -> None:
    scheduler.set_workload("api", share=8, rank=1)
    scheduler.set_workload("etl", share=2, rank=2)
    scheduler.configure("a", weight=1, rank=0, burst_max=None, paused=False)
    scheduler.arrive("a", "api", 5)
    scheduler.arrive("a", "etl", 5)


def test_the_flow_of_a_critical_task_is_the_next_of_its_org() -> None:
    scheduler = WeightedScheduler(cost_mode=CostMode.COUNT)
    with_two_flows(scheduler)
    scheduler.set_critical("a", "etl", 2)
    # For as many as there are; what they were charged, the flow waits for afterwards.
    assert of_one_org(scheduler, 7) == ["etl", "etl", "api", "api", "api", "api", "api"]


def test_under_the_strict_policy_the_rank_of_a_workload_goes_first() -> None:
    scheduler = StrictScheduler(cost_mode=CostMode.COUNT)
    with_two_flows(scheduler)
    scheduler.set_critical("a", "etl", 2)
    assert scheduler.critical_flows(scheduler.orgs["a"]) == []
    assert of_one_org(scheduler, 6) == ["api"] * 5 + ["etl"]
    assert [flow.workload for flow in scheduler.critical_flows(scheduler.orgs["a"])] == ["etl"]


def test_a_plan_that_is_undone_owes_the_critical_tasks_again() -> None:
    scheduler = WeightedScheduler(cost_mode=CostMode.COUNT)
    with_two_flows(scheduler)
    scheduler.set_critical("a", "etl", 2)
    plan = scheduler.plan(3)
    scheduler.undo(plan)
    assert scheduler.plan(3).picks == plan.picks
