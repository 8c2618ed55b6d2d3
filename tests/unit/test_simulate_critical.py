"""Critical tasks in a simulation: first in their org, and, where it is said how soon, made room."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.fairness import WeightedScheduler, WorkloadClass
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.policy import Change, OrgSetting, SimPolicy
from orchestrator.fairness.simulation.report import admissions, report_of
from orchestrator.fairness.simulation.run import Run
from orchestrator.fairness.simulation.simulate import simulate
from orchestrator.fairness.simulation.trace import Arrival, Trace, trace_of
from tests.unit.histories import law
from tests.unit.simulated import MS, S, tasks

ONE_AT_ONCE = {"ada": OrgSetting(burst_max=1)}

# By hand ----------------------------------------------------------------------------------------


def test_a_critical_task_goes_before_all_other_work_of_its_org() -> None:
    trace = trace_of(
        [
            *tasks("ada", 1, S),
            *tasks("ada", 2, S, priority=10, workload="api"),
            *tasks("ada", 1, S, at_us=1, priority=3, critical=True),
            *tasks("ada", 1, S, at_us=2, priority=9, critical=True),
        ]
    )
    run = simulate(trace, SimPolicy(slots=1))
    # The first is at its head, whatever the priority; among them who came first.
    assert list(run.order)[1:3] == [3, 4]
    # A rule that is not ours has it go first in its flow only.
    assert list(simulate(trace, SimPolicy(slots=1, rule=Rule.FIFO)).order) == [0, 1, 2, 3, 4]


def test_under_the_strict_policy_a_better_workload_goes_first() -> None:
    trace = trace_of(
        [
            *tasks("ada", 3, S, workload="api"),
            *tasks("ada", 1, S, at_us=1),
            *tasks("ada", 1, S, at_us=2, critical=True),
        ]
    )
    policy = SimPolicy(slots=1, rule=Rule.STRICT, workloads={"etl": WorkloadClass(rank=1)})
    assert list(simulate(trace, policy).order) == [0, 1, 2, 4, 3]


def test_a_critical_task_is_claimed_with_the_highest_priority() -> None:
    trace = trace_of(
        [
            *tasks("ada", 3, S, priority=1),
            *tasks("bob", 1, S, at_us=1, priority=1, critical=True),
        ]
    )
    assert list(simulate(trace, SimPolicy(slots=1, window=3)).start_us) == [0, 2 * S, 3 * S, S]


def test_nobody_yields_unless_it_is_said_how_soon() -> None:
    trace = trace_of(
        [*tasks("ada", 2, 4 * S), *tasks("ada", 1, S, at_us=S, priority=10, critical=True)]
    )
    policy = SimPolicy(slots=2, orgs=ONE_AT_ONCE)
    run = simulate(trace, policy)
    assert (list(run.order), run.yields, run.start_us[2]) == ([0, 2, 1], 0, 4 * S)


def test_who_yields_goes_on_with_what_is_left_in_its_old_place() -> None:
    trace = trace_of(
        [*tasks("ada", 2, 4 * S), *tasks("ada", 1, S, at_us=S, priority=10, critical=True)]
    )
    policy = SimPolicy(slots=2, orgs=ONE_AT_ONCE, yield_us=500 * MS)
    run = simulate(trace, policy)
    # Asked at 1 s, it stops at 1.5 s; the critical task runs until 2.5 s, then 2.5 s are left.
    assert (list(run.order), run.yields) == ([0, 2, 0, 1], 1)
    assert list(run.start_us) == [0, 5 * S, 1_500 * MS]
    assert (run.until_us, run.busy_us, list(run.served_us)) == (9 * S, 9 * S, [9 * S])
    report = report_of(run)
    assert (report.yields, report.started) == (1, 3)
    assert report.critical is not None
    assert report.critical == (1, (1, 0.5, 0.5, 0.5, 0.5))
    assert report.orgs[0].critical == report.critical


def test_a_request_is_withdrawn_where_the_critical_task_finds_another_slot() -> None:
    trace = trace_of(
        [
            *tasks("ada", 1, 9 * S, priority=2),
            *tasks("ada", 1, 2 * S),
            *tasks("ada", 1, S, at_us=S, priority=10, critical=True),
        ]
    )
    policy = SimPolicy(slots=2, orgs={"ada": OrgSetting(burst_max=2)}, yield_us=3 * S)
    run = simulate(trace, policy)
    # The other task ended first, at 2 s.
    assert (run.yields, run.start_us[2], run.until_us) == (0, 2 * S, 9 * S)


def test_nobody_is_asked_of_a_higher_priority_a_paused_org_or_another_org() -> None:
    def yields(*, priority: int = 5, changes: tuple[Change, ...] = (), org: str = "ada") -> int:
        trace = trace_of(
            [
                *tasks("ada", 1, 9 * S, priority=priority),
                *tasks(org, 1, S, at_us=2 * S, priority=6, critical=True),
            ]
        )
        policy = SimPolicy(slots=1, orgs=ONE_AT_ONCE, yield_us=MS, changes=changes)
        return simulate(trace, policy).yields

    paused = OrgSetting(burst_max=1, paused=True)
    assert yields() == 1
    assert yields(priority=6) == 0
    assert yields(changes=(Change(S, "ada", paused),)) == 0
    assert yields(org="bob") == 0


def test_a_task_that_outgrows_its_charge_after_it_yielded_is_charged_for_that() -> None:
    trace = trace_of(
        [
            *tasks("ada", 1, 5 * S),
            *tasks("bob", 40, S),
            *tasks("ada", 1, S, at_us=2_100 * MS, priority=10, critical=True),
        ]
    )
    policy = SimPolicy(slots=2, orgs=ONE_AT_ONCE, yield_us=100 * MS)
    run = simulate(trace, policy)
    assert run.yields == 1
    assert run.busy_us == 46 * S == sum(run.served_us)
    assert run.idle_us == 0


def test_who_yields_too_soon_could_yield_for_ever() -> None:
    with pytest.raises(InvalidInput, match="yield_us must be at least 1000"):
        SimPolicy(yield_us=999)


# Laws -------------------------------------------------------------------------------------------


@st.composite
def traces(draw: st.DrawFn, *, part: float = 0.3, equal: bool = False) -> Trace:
    """Draw arrivals of which about a `part` are critical."""
    arrivals = st.tuples(
        st.integers(0, 300),
        st.sampled_from(["ada", "bob", "cyd"]),
        st.sampled_from(["etl", "ocr"]),
        st.sampled_from([1, 5, 10]),
        st.just(50) if equal else st.one_of(st.integers(1, 20), st.integers(100, 5_000)),
        st.floats(0, 1),
    )
    drawn = sorted(draw(st.lists(arrivals, min_size=1, max_size=40)), key=lambda each: each[0])
    return trace_of(
        Arrival(at * 10 * MS, org, workload, priority, duration * MS, dice < part)
        for at, org, workload, priority, duration, dice in drawn
    )


policies = st.builds(
    SimPolicy,
    rule=st.sampled_from([Rule.WEIGHTED, Rule.COUNT]),
    slots=st.integers(1, 6),
    tick_us=st.sampled_from([0, 0, 30 * MS]),
    orgs=st.fixed_dictionaries(
        {},
        optional={
            "ada": st.just(OrgSetting(weight=5, burst_max=1)),
            "bob": st.just(OrgSetting(burst_max=2)),
        },
    ),
    workloads=st.just({"etl": WorkloadClass(share=3), "ocr": WorkloadClass(share=1, rank=1)}),
)
# The soonest, something usual, and nobody.
yielding = st.sampled_from([MS, 40 * MS, 700 * MS, None])


@law
@given(traces(), policies)
def test_no_ordinary_task_is_admitted_while_a_critical_one_of_its_org_waits(
    trace: Trace, policy: SimPolicy
) -> None:
    run = simulate(trace, policy)
    assert sorted(run.order) == list(range(len(trace)))
    waiting = {task for task in range(len(trace)) if trace.critical[task]}
    for task in run.order:
        if not trace.critical[task]:
            # Without a ready window a task begins where it is admitted.
            now, org = run.start_us[task], trace.org[task]
            passed = [c for c in waiting if trace.org[c] == org and trace.at_us[c] <= now]
            assert passed == []
        waiting.discard(task)


@law
@given(traces(), policies, yielding, st.sampled_from(list(Rule)), st.sampled_from([0, 3]))
def test_whoever_yields_all_work_is_done_and_every_promise_kept(
    trace: Trace, policy: SimPolicy, yield_us: int | None, rule: Rule, window: int
) -> None:
    run = simulate(trace, replace(policy, yield_us=yield_us, rule=rule, window=window))
    admitted = Counter(run.order)
    assert admitted.keys() == set(range(len(trace)))
    assert admitted.total() == len(trace) + run.yields
    assert all(admitted[task] == 1 for task in range(len(trace)) if trace.critical[task])
    # An attempt is as long as it was, in however many parts.
    assert run.busy_us == sum(trace.duration_us) == sum(run.served_us)
    if not policy.tick_us:
        assert run.idle_us == 0
    for org, name in enumerate(trace.orgs):
        burst_max = policy.orgs.get(name, OrgSetting()).burst_max
        assert burst_max is None or run.peak[org] <= burst_max
    if rule not in (Rule.WEIGHTED, Rule.COUNT, Rule.STRICT):
        assert run.yields == 0


@law
@given(traces(), policies, st.sampled_from([MS, 40 * MS, 700 * MS]))
def test_the_first_critical_task_begins_no_later_where_others_yield_to_it(
    trace: Trace, policy: SimPolicy, yield_us: int
) -> None:
    """One org alone, so that each slot that is freed is its own."""
    alone = trace_of(each for each in trace if each.org == trace.orgs[0])
    policy = replace(policy, tick_us=0)
    before, after = simulate(alone, policy), simulate(alone, replace(policy, yield_us=yield_us))
    critical = [task for task in range(len(alone)) if alone.critical[task]]
    first_at = [
        min((run.start_us[task] for task in critical), default=0) for run in (before, after)
    ]
    assert first_at[1] <= first_at[0]


@law
@given(traces(equal=True), policies)
def test_marking_tasks_critical_never_changes_the_sequence_of_orgs(
    trace: Trace, policy: SimPolicy
) -> None:
    policy = replace(policy, rule=Rule.COUNT)
    plain = trace_of(each._replace(critical=False) for each in trace)
    assert admissions(simulate(trace, policy)) == admissions(simulate(plain, policy))


class _Unmarked(WeightedScheduler):
    def set_critical(self, org: str, workload: str, count: int) -> None:
        raise AssertionError("told of a critical task")


@law
@given(traces(part=-1), policies, yielding)
def test_without_critical_arrivals_nothing_of_them_is_in_a_run(
    trace: Trace, policy: SimPolicy, yield_us: int | None
) -> None:
    policy = replace(policy, rule=Rule.WEIGHTED)
    plain = simulate(trace, policy)
    told = simulate(trace, replace(policy, yield_us=yield_us), scheduler=_Unmarked())
    assert everything(told) == everything(plain)
    assert report_of(plain).critical is None
    assert all(org.critical is None for org in report_of(plain).orgs)


def everything(run: Run) -> tuple[object, ...]:
    """Return all figures of a run but the policy."""
    return tuple(
        getattr(run, name) for name in run.__dataclass_fields__ if name not in ("policy", "trace")
    )
