"""Reasons in the order in which they bind, and the expected start, from facts alone."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.fairness import WeightedScheduler
from orchestrator.fairness.explanation.explain import explained
from orchestrator.fairness.explanation.facts import (
    Counted,
    Facts,
    FlowFacts,
    LastAttempt,
    OrgFacts,
    Pulse,
    QueueFacts,
    RecentFlow,
    TaskFacts,
)
from orchestrator.fairness.explanation.forecast import Forecast, forecast
from orchestrator.fairness.explanation.standing import standing
from orchestrator.fairness.state import Lane
from orchestrator.model import DEPTH_MAX, AttemptStatus, CostMode, Place, Policy, ReasonKind
from tests.unit.histories import law

NOW = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)
COST_US = 20_000


def flow(workload: str = "etl", backlog: int = 10, **fields: Any) -> FlowFacts:
    return FlowFacts(workload, backlog, **{"cost_us": COST_US, **fields})


def org(name: str = "acme", *flows: FlowFacts, **fields: Any) -> OrgFacts:
    return OrgFacts(org=name, flows=flows or (flow(),), **{"eligible": True, **fields})


def queue(**fields: Any) -> QueueFacts:
    known: dict[str, Any] = {"name": "default", "leader": "r1", "workers": 4, "claimed": 4}
    return QueueFacts(**{**known, **fields})


def task(place: Place = Place.STAGED, **fields: Any) -> TaskFacts:
    return TaskFacts(**{"id": 7, "org": "acme", "workload": "etl", "place": place, **fields})


def facts(**fields: Any) -> Facts:
    known: dict[str, Any] = {"task": task(), "org": org(), "queue": queue()}
    return Facts(at=NOW, line_at=NOW, **{**known, **fields})


def busy(per_s: float, own_per_s: float = 0.0, seconds: float = 20.0) -> tuple[Pulse, ...]:
    """Return ticks at 10 a second that filled the window, all alike."""
    ticks = int(seconds * 10)
    admitted, own = round(per_s / 10), round(own_per_s / 10)
    return tuple(Pulse((n + 0.5) / 10, admitted, own, 32 - admitted, 32, 36) for n in range(ticks))


def told(given: Facts) -> Forecast:
    found = forecast(given)
    assert found is not None
    return found


def kinds(given: Facts) -> list[ReasonKind]:
    return [reason.kind for reason in explained(given).reasons]


def reason_of(given: Facts, kind: ReasonKind) -> Any:
    (reason,) = [reason for reason in explained(given).reasons if reason.kind is kind]
    return reason


# Reasons


def test_a_task_that_nothing_holds_back_is_admitted_in_the_next_tick() -> None:
    assert kinds(facts()) == [ReasonKind.NEXT_TICK]


def test_what_shuts_a_task_out_binds_before_its_place_in_the_line() -> None:
    shut = facts(
        task=task(ahead=Counted(3)),
        org=org(paused=True, burst_max=2, in_flight=2, tag=10**9),
        queue=queue(
            paused_at=NOW,
            leader=None,
            capacity=10,
            in_flight=Counted(10),
            headroom=0.0001,
            ready=32,
        ),
        line=(org("other"),),
        pulses=busy(100),
    )
    assert kinds(shut) == [
        ReasonKind.ORG_PAUSED,
        ReasonKind.QUEUE_PAUSED,
        ReasonKind.BURST_MAX,
        ReasonKind.QUEUE_FULL,
        ReasonKind.LEADER_ABSENT,
        ReasonKind.BEHIND_OWN_TASKS,
        ReasonKind.BEHIND_ORGS,
        ReasonKind.READY_WINDOW,
    ]


def test_the_kinds_are_declared_in_the_order_in_which_they_bind() -> None:
    order = list(ReasonKind)
    for known in (
        facts(org=org(paused=True), queue=queue(leader=None)),
        facts(task=task(ahead=Counted(3), last=failure()), line=(org("other", tag=-(10**9)),)),
        facts(task=task(Place.SCHEDULED, run_at=NOW, last=failure()), org=org(paused=True)),
    ):
        places = [order.index(kind) for kind in kinds(known)]
        assert len(places) > 1
        assert places == sorted(places)


def test_burst_max_names_the_tasks_that_hold_the_slots() -> None:
    capped = facts(org=org(burst_max=2, in_flight=2), holders=(3, 4))
    reason = reason_of(capped, ReasonKind.BURST_MAX)
    assert (reason.count, reason.limit, reason.tasks) == (2, 2, (3, 4))
    assert "2 of burst_max 2" in reason.text
    assert "orchestrator org set acme" in reason.unblock


def test_a_pause_tells_since_when_and_why() -> None:
    paused = facts(org=org(paused=True), paused_at=NOW, paused_reason="invoice overdue")
    reason = reason_of(paused, ReasonKind.ORG_PAUSED)
    assert reason.since == NOW
    assert "2026-05-01T09:30:00Z" in reason.text
    assert "invoice overdue" in reason.text


def test_ordinary_work_is_told_that_the_free_slots_are_kept_for_express_work() -> None:
    kept = queue(capacity=20, in_flight=Counted(18), has_express=True)
    reason = reason_of(facts(queue=kept), ReasonKind.EXPRESS_RESERVE)
    assert (reason.count, reason.limit) == (18, 18)
    express = facts(queue=kept, org=org("acme", flow(express=True)))
    assert ReasonKind.EXPRESS_RESERVE not in kinds(express)


def test_headroom_binds_an_org_that_holds_more_than_its_part_of_what_is_free() -> None:
    scarce = queue(capacity=100, in_flight=Counted(90), headroom=2.0)
    reason = reason_of(facts(queue=scarce, org=org(in_flight=20)), ReasonKind.HEADROOM)
    assert (reason.count, reason.limit) == (20, 20)
    assert kinds(facts(queue=scarce, org=org(in_flight=19))) == [ReasonKind.NEXT_TICK]


def test_a_workload_that_is_express_in_name_only_is_told_so() -> None:
    demoted = facts(workload_express=True, express_max_us=5_000)
    reason = reason_of(demoted, ReasonKind.EXPRESS_DEMOTED)
    assert "0.02 s" in reason.text
    assert "0.005 s" in reason.text


def failure() -> LastAttempt:
    return LastAttempt(2, AttemptStatus.FAILED, NOW - timedelta(seconds=5), "w1", "boom")


def test_a_retry_tells_the_last_failure_and_when_the_next_attempt_is_due() -> None:
    run_at = NOW + timedelta(seconds=30)
    waiting = task(Place.SCHEDULED, run_at=run_at, due_in_s=30.0, last=failure(), max_attempts=5)
    given = facts(task=waiting)
    assert kinds(given) == [ReasonKind.NOT_DUE, ReasonKind.LAST_FAILURE]
    assert reason_of(given, ReasonKind.NOT_DUE).until == run_at
    last = reason_of(given, ReasonKind.LAST_FAILURE)
    assert (last.attempt, last.status, last.error) == (2, AttemptStatus.FAILED, "boom")
    assert last.until == run_at
    assert "Attempt 2 of 5" in last.text


def test_of_a_long_error_the_sentence_has_the_first_line_and_the_value_all() -> None:
    error = f"{'x' * 300}\n  File handlers.py"
    given = facts(task=task(last=failure()._replace(error=error)))
    reason = reason_of(given, ReasonKind.LAST_FAILURE)
    assert "x" * 200 + "…" in reason.text
    assert "handlers.py" not in reason.text
    assert reason.error == error


def test_a_ready_task_waits_for_a_worker_and_a_claimed_one_is_leased() -> None:
    ready = facts(task=task(Place.READY, claimed_first=3))
    assert reason_of(ready, ReasonKind.WAITING_FOR_WORKER).count == 3
    alone = facts(task=task(Place.READY), queue=queue(workers=0, claimed=0))
    assert "Start a worker" in reason_of(alone, ReasonKind.WAITING_FOR_WORKER).unblock
    until = NOW + timedelta(seconds=30)
    claimed = facts(task=task(Place.CLAIMED, worker="w1", lease_expires_at=until))
    leased = reason_of(claimed, ReasonKind.LEASED)
    assert (leased.worker, leased.until) == ("w1", until)
    assert explained(claimed).expected_start_at is None


def test_an_ended_task_tells_how_and_a_dead_one_how_to_retry_it() -> None:
    ended = task(Place.ENDED, status=AttemptStatus.DEAD, ended_at=NOW)
    reason = reason_of(facts(task=replace(ended, last=failure())), ReasonKind.ENDED)
    assert (reason.status, reason.error) == (AttemptStatus.DEAD, "boom")
    assert kinds(facts(task=replace(ended, last=failure()))) == [ReasonKind.ENDED]
    assert "orchestrator task retry 7" in reason.unblock
    succeeded = task(Place.ENDED, status=AttemptStatus.SUCCEEDED, ended_at=NOW)
    assert reason_of(facts(task=succeeded), ReasonKind.ENDED).unblock is None


# The place in the line


def test_an_org_ahead_by_virtual_time_is_named_with_what_goes_first() -> None:
    behind = facts(
        org=org(tag=10 * COST_US * 1024),
        line=(org("ahead", flow(backlog=100)), org("behind", tag=2**50)),
    )
    first = standing(behind)
    assert (first.orgs, first.tasks, first.own_tasks) == (("ahead",), 10, 0)
    reason = reason_of(behind, ReasonKind.BEHIND_ORGS)
    assert (reason.orgs, reason.count) == (("ahead",), 1)


def test_a_backlog_bounds_what_goes_first_and_a_pause_or_a_cap_takes_an_org_out() -> None:
    late = {"org": org(tag=10 * COST_US * 1024)}
    assert standing(facts(line=(org("b", flow(backlog=4)),), **late)).tasks == 4
    for out in (org("b", paused=True), org("b", burst_max=1, in_flight=1)):
        assert standing(facts(line=(out,), **late)).tasks == 0


def test_an_org_that_was_not_in_line_is_given_no_credit() -> None:
    late = queue(virtual_time=10 * COST_US * 1024)
    other = org("b", flow(backlog=100))
    assert standing(facts(queue=late, org=org(eligible=False), line=(other,))).tasks == 10


def test_under_strict_whole_backlogs_of_better_tiers_go_first() -> None:
    strict = queue(policy=Policy.STRICT)
    line = (org("gold", flow(backlog=50), rank=1), org("peer", rank=5), org("free", rank=9))
    given = facts(task=task(ahead=Counted(4)), org=org(rank=5), queue=strict, line=line)
    first = standing(given)
    assert first.own_tasks == 4
    assert first.orgs == ("gold", "peer")
    assert first.tasks == 4 + 50 + 4


@given(
    weights=st.lists(st.integers(1, 10), min_size=2, max_size=5),
    costs=st.lists(st.integers(1_000, 100_000), min_size=5, max_size=5),
    before=st.integers(0, 30),
    history=st.integers(0, 60),
)
def test_the_standing_is_what_the_policy_then_does(
    weights: list[int], costs: list[int], before: int, history: int
) -> None:
    """The orgs that the arithmetic puts first are those the scheduler admits, but for one task of
    each other org: ties are the scheduler's to break.
    """
    scheduler = WeightedScheduler()
    names = [f"org{number}" for number in range(len(weights))]
    for name, weight, cost in zip(names, weights, costs, strict=False):
        scheduler.configure(name, weight=weight, rank=0, burst_max=None, paused=False)
        scheduler.arrive(name, "etl", 200)
        scheduler.org(name).flows["etl"].cost_us = cost
    scheduler.plan(history)
    states = [scheduler.orgs[name] for name in names]
    known = [
        org(
            state.org,
            FlowFacts("etl", state.backlog, state.flows["etl"].cost_us, state.flows["etl"].tags[0]),
            weight=state.weight,
            tag=state.main.tag,
            virtual_time=state.main.virtual_time,
        )
        for state in states
    ]
    mine = task(org="org0", ahead=Counted(before))
    first = standing(facts(task=mine, org=known[0], line=tuple(known[1:])))

    picks = [pick.org for pick in scheduler.plan(2_000).picks]
    mine_at = [number for number, name in enumerate(picks) if name == "org0"][before]
    assert first.own_tasks == before
    assert abs(first.tasks - mine_at) <= len(weights)


def stood(scheduler: WeightedScheduler, name: str) -> OrgFacts:
    """Return what the database would tell of an org as it stands."""
    state = scheduler.orgs[name]
    flows = [
        flow(
            each.workload,
            each.backlog,
            cost_us=each.cost_us,
            tag=each.tags[Lane.MAIN],
            express_tag=each.tags[Lane.EXPRESS],
            share=each.share,
            rank=each.rank,
            express=each.express,
            critical=each.critical,
        )
        for each in state.flows.values()
        if each.backlog
    ]
    return org(
        name,
        *flows,
        weight=state.weight,
        tag=state.main.tag,
        virtual_time=state.main.virtual_time,
        express_tag=state.express.tag,
        express_virtual_time=state.express.virtual_time,
        express_eligible=state.express.eligible,
    )


@law
@given(
    lane=st.sampled_from(Lane),
    mode=st.sampled_from(CostMode),
    weights=st.lists(st.integers(1, 10), min_size=1, max_size=4),
    shares=st.lists(st.integers(1, 10), min_size=3, max_size=3),
    costs=st.lists(st.integers(1_000, 100_000), min_size=12, max_size=12),
    critical=st.lists(st.integers(0, 40), min_size=12, max_size=12),
    history=st.integers(0, 60),
    before=st.integers(0, 60),
    workload=st.sampled_from(("api", "chat", "etl")),
)
def test_with_critical_tasks_in_any_flow_the_standing_is_what_the_policy_then_does(
    lane: Lane,
    mode: CostMode,
    weights: list[int],
    shares: list[int],
    costs: list[int],
    critical: list[int],
    history: int,
    before: int,
    workload: str,
) -> None:
    """In each lane: to the task inside the org, and but for one task of each other org."""
    assume(lane is Lane.MAIN or workload != "etl")
    scheduler = WeightedScheduler(cost_mode=mode)
    workloads = ("api", "chat", "etl")
    for name, share in zip(workloads, shares, strict=True):
        scheduler.set_workload(name, share=share, rank=0, express=name != "etl")
    names = [f"org{number}" for number in range(len(weights))]
    flows = [(name, each) for name in names for each in workloads]
    for name, weight in zip(names, weights, strict=True):
        scheduler.configure(name, weight=weight, rank=0, burst_max=None, paused=False)
    for (name, each), cost in zip(flows, costs, strict=False):
        scheduler.arrive(name, each, 150)
        scheduler.orgs[name].flows[each].cost_us = cost
    scheduler.plan(history, history // 2)
    for (name, each), count in zip(flows, critical, strict=False):
        scheduler.set_critical(name, each, count)

    mine, *line = (stood(scheduler, name) for name in names)
    is_critical = before < scheduler.orgs["org0"].flows[workload].critical
    asked = task(org="org0", workload=workload, ahead=Counted(before), critical=is_critical)
    first = standing(
        facts(task=asked, org=mine, line=tuple(line), queue=queue(cost_mode=mode)), lane
    )

    slots = (4_000, 0) if lane is Lane.MAIN else (0, 4_000)
    picks = [(pick.org, pick.workload) for pick in scheduler.plan(*slots).picks]
    turns = [place for place, pick in enumerate(picks) if pick == ("org0", workload)]
    truth = Counter(picks[: turns[before]])
    told = {(each.org, each.workload): each.tasks for each in first.own}
    for each in workloads:
        assert truth["org0", each] == told.get(("org0", each), 0)
    assert abs(turns[before] - first.tasks) < len(names)


def test_of_the_critical_tasks_in_front_their_number_is_told() -> None:
    mine = org("acme", flow("api", 100, critical=3), flow("etl", 100))
    reason = reason_of(facts(org=mine), ReasonKind.BEHIND_OWN_TASKS)
    assert (reason.count, reason.count_exact) == (3, True)
    assert "3 in api; all of them critical" in reason.text
    assert "higher priority" not in reason.unblock

    behind = facts(org=mine, task=task(ahead=Counted(2)))
    reason = reason_of(behind, ReasonKind.BEHIND_OWN_TASKS)
    assert "2 in etl, 3 in api; 3 of them critical" in reason.text
    assert "higher priority" in reason.unblock


def test_a_critical_task_goes_before_all_that_is_not_whatever_the_tags_say() -> None:
    late = flow("etl", 100, tag=10**15, critical=2)
    mine = org("acme", flow("api", 100, critical=1), late)
    given = facts(org=mine, task=task(ahead=Counted(1), critical=True))
    assert standing(given).own_tasks == 2
    reason = reason_of(given, ReasonKind.BEHIND_OWN_TASKS)
    assert "all of them critical" in reason.text
    assert "before all of its org that is not critical" in reason.unblock


def test_under_strict_a_critical_task_goes_first_in_its_workload_alone() -> None:
    mine = org("acme", flow("api", 5, critical=2, rank=1), flow("etl", 9, critical=4, rank=2))
    given = facts(
        org=mine, task=task(ahead=Counted(1), critical=True), queue=queue(policy=Policy.STRICT)
    )
    reason = reason_of(given, ReasonKind.BEHIND_OWN_TASKS)
    assert reason.count == 6
    assert "3 of them critical" in reason.text
    assert "of its workload" in reason.unblock


def test_critical_tasks_past_the_bound_make_the_count_an_estimate() -> None:
    mine = org("acme", flow("api", 5_000, critical=DEPTH_MAX, tag=2**40), flow())
    reason = reason_of(facts(org=mine), ReasonKind.BEHIND_OWN_TASKS)
    assert (reason.count, reason.count_exact) == (DEPTH_MAX, False)


def test_a_critical_task_at_the_cap_is_told_who_was_asked_to_yield() -> None:
    full = org(burst_max=2, in_flight=2)
    waits = {"org": full, "holders": (11, 12)}
    reason = reason_of(facts(**waits), ReasonKind.BURST_MAX)
    assert "yield" not in reason.text + reason.unblock
    reason = reason_of(facts(task=task(critical=True), asked=(12,), **waits), ReasonKind.BURST_MAX)
    assert "tasks 11, 12; task 12 asked to yield" in reason.text
    assert "or yields" in reason.unblock


def test_inside_an_org_the_shares_tell_how_many_of_the_other_workload_go_first() -> None:
    mine = org("acme", flow("api", 100, share=8), flow("etl", 100, share=2))
    given = facts(task=task(workload="etl", ahead=Counted(10)), org=mine)
    first = standing(given)
    # The last of `api` has the same tag as the task: of equal tags the first by name goes.
    assert {each.workload: each.tasks for each in first.own} == {"etl": 10, "api": 41}


def test_in_count_mode_every_task_costs_the_same() -> None:
    one = 1024 * 1_000_000
    cheap = org("b", flow(backlog=100, cost_us=1))
    given = facts(queue=queue(cost_mode=CostMode.COUNT), org=org(tag=5 * one), line=(cheap,))
    assert standing(given).tasks == 5


def test_the_express_lane_holds_express_work_only() -> None:
    line = (org("b", flow(backlog=50)), org("c", flow("api", 50, express=True)))
    late = org(
        "acme", flow("api", express=True), express_tag=5 * COST_US * 1024, express_eligible=True
    )
    given = facts(task=task(workload="api"), org=late, line=line)
    assert standing(given, Lane.EXPRESS).orgs == ("c",)


# The expected start


@pytest.mark.parametrize(
    "shut",
    [
        {"org": org(paused=True)},
        {"queue": queue(paused_at=NOW)},
        {"queue": queue(leader=None)},
        {"queue": queue(workers=0)},
    ],
)
def test_nothing_is_expected_while_nothing_can_tell(shut: dict[str, Any]) -> None:
    explanation = explained(facts(**shut))
    assert explanation.expected_start_at is None
    assert explanation.expected_start_low_at is None
    assert explanation.rate_per_s is None


def test_where_a_worker_is_free_the_start_is_a_matter_of_moments() -> None:
    free = told(facts(queue=queue(claimed=0)))
    assert free.low_s == 0.0
    assert free.high_s < 1.0


def test_a_worker_kept_for_express_work_is_free_for_that_alone() -> None:
    kept = queue(workers=4, claimed=3, has_express=True)
    express = facts(queue=kept, org=org("acme", flow(express=True)), pulses=busy(10))
    ordinary = facts(queue=kept, pulses=busy(10))
    assert told(express).starts_ahead == told(ordinary).starts_ahead == 0
    assert told(express).low_s == 0.0
    assert told(ordinary).median_s > 2 * told(express).median_s


def test_the_org_s_own_measured_rate_tells_when_a_task_deep_in_its_backlog_starts() -> None:
    deep = facts(
        task=task(ahead=Counted(500), waiting_s=60.0),
        org=org("acme", flow(backlog=1_000)),
        queue=queue(ready=32, workers=8, claimed=8),
        pulses=busy(200, 50),
    )
    found = told(deep)
    assert found.rate_per_s == pytest.approx(50, rel=0.1)
    assert found.median_s == pytest.approx(501 / 50 + 32 / 200, rel=0.1)
    assert found.low_s < 10 < found.high_s < 2 * found.median_s


def test_a_newcomer_waits_for_the_window_not_for_the_backlog() -> None:
    def newcomer(backlog: int) -> Forecast:
        noisy = org("noisy", flow(backlog=backlog), tag=1)
        return told(
            facts(
                org=org("acme", flow(backlog=1), eligible=False),
                queue=queue(ready=32, workers=8, claimed=8, virtual_time=1),
                line=(noisy,),
                pulses=busy(200),
            )
        )

    assert newcomer(10**6) == newcomer(100)
    assert newcomer(100).median_s == pytest.approx(33 / 200, rel=0.2)


def test_more_observations_narrow_the_interval() -> None:
    def width(given: Facts) -> float:
        found = told(given)
        return found.high_s / found.low_s

    assert width(flooding(busy(200, 50, 20.0))) < width(flooding(busy(200, 50, 1.0)))
    ready = replace(flooding(busy(200)), task=task(Place.READY, claimed_first=200))
    # Without any start on record only the workers and the mean cost speak.
    assert width(ready) < 2.0 < 3.0 < width(replace(ready, pulses=()))


def flooding(pulses: tuple[Pulse, ...], **fields: Any) -> Facts:
    """Return the facts about a task with 200 of its own before it, of an org that floods."""
    return facts(
        task=task(ahead=Counted(200), waiting_s=60.0),
        org=org("acme", flow(backlog=1_000)),
        queue=queue(**{"ready": 32, "workers": 8, "claimed": 8, **fields}),
        pulses=pulses,
    )


def test_uneven_admissions_widen_the_interval() -> None:
    even = busy(200, 50)
    by_turns = tuple(pulse._replace(own=10 * (int(2 * pulse.ago_s) % 2)) for pulse in even)
    smooth, uneven = told(flooding(even)), told(flooding(by_turns))
    assert uneven.high_s / uneven.low_s > 1.2 * smooth.high_s / smooth.low_s


def test_idle_time_before_the_rush_does_not_count_as_slowness() -> None:
    rush = busy(200, seconds=1.0)
    quiet = tuple(Pulse(1.0 + n / 10, 1, 0, 0, 32, 1) for n in range(20))
    found = told(flooding(rush + quiet))
    assert found.median_s == pytest.approx(told(flooding(rush)).median_s)
    assert found.median_s < 1.5


def test_what_fills_the_window_was_not_claimed() -> None:
    """Nobody claims: each tick admits what the window has grown by."""
    filling = tuple(Pulse(n / 10, 50, 0, 450 - 50 * n, 500 - 50 * n, 500) for n in range(10))
    assert told(flooding(filling, ready=500, workers=1)).rate_per_s < 10


def test_an_org_that_waited_for_the_others_to_catch_up_is_not_slow_for_that() -> None:
    late = tuple(p._replace(own=10 if p.ago_s < 1 else 0) for p in busy(200, 50))
    assert told(flooding(late)).rate_per_s == pytest.approx(100, rel=0.15)


def test_orgs_that_come_and_go_take_their_part() -> None:
    def waits(passing: int) -> float:
        return told(
            facts(
                task=task(ahead=Counted(100)),
                org=org("acme", flow(backlog=200)),
                queue=queue(workers=8, claimed=8),
                pulses=busy(200),
                recent=(
                    RecentFlow("acme", "etl", 100, COST_US),
                    RecentFlow("gone", "etl", passing, COST_US),
                ),
            )
        ).median_s

    assert waits(100) == pytest.approx(2 * waits(0), rel=0.1)


def test_a_scheduled_task_is_expected_after_its_time() -> None:
    waiting = task(Place.SCHEDULED, run_at=NOW + timedelta(seconds=30), due_in_s=30.0)
    found = told(facts(task=waiting, queue=queue(claimed=0)))
    assert found.low_s == pytest.approx(30.0)
    assert found.high_s < 31.0


def test_burst_max_holds_a_task_up_for_as_long_as_slots_take_to_come_free() -> None:
    slow = flow(cost_us=60_000_000)
    capped = facts(org=org("acme", slow, burst_max=2, in_flight=2), queue=queue(claimed=2))
    assert told(capped).median_s == pytest.approx(30.0, rel=0.2)


@given(
    ahead=st.integers(0, 5_000),
    ready=st.integers(0, 500),
    per_s=st.integers(10, 2_000),
    own=st.floats(0, 1),
    waiting_s=st.floats(0, 100),
    in_flight=st.integers(0, 50),
    burst_max=st.none() | st.integers(1, 50),
    seconds=st.floats(0.3, 60),
)
def test_the_interval_holds_its_middle_and_is_finite(
    ahead: int,
    ready: int,
    per_s: int,
    own: float,
    waiting_s: float,
    in_flight: int,
    burst_max: int | None,
    seconds: float,
) -> None:
    found = told(
        facts(
            task=task(ahead=Counted(ahead), waiting_s=waiting_s),
            org=org("acme", flow(backlog=ahead + 1), in_flight=in_flight, burst_max=burst_max),
            queue=queue(ready=ready),
            pulses=busy(per_s, per_s * own, seconds),
        )
    )
    assert 0 <= found.low_s <= found.median_s <= found.high_s
    assert math.isfinite(found.high_s)
    assert found.rate_per_s > 0
