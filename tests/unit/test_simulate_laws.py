"""Laws of simulated runs, over drawn traces and policies."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fairness import WeightedScheduler, WorkloadClass, settled
from orchestrator.fairness.simulation.baselines import Rule
from orchestrator.fairness.simulation.policy import OrgSetting, SimPolicy
from orchestrator.fairness.simulation.report import report_of
from orchestrator.fairness.simulation.run import Run
from orchestrator.fairness.simulation.simulate import simulate
from orchestrator.fairness.simulation.trace import Arrival, Trace, trace_of
from tests.unit.histories import law
from tests.unit.simulated import MS, most_running, of_org

# Laws -------------------------------------------------------------------------------------------


@st.composite
def traces(draw: st.DrawFn, most: int = 40) -> Trace:
    arrivals = st.tuples(
        st.integers(0, 300),
        st.sampled_from(["ada", "bob", "cyd", "dan"]),
        st.sampled_from(["etl", "ocr"]),
        st.sampled_from([1, 5, 10]),
        st.one_of(st.integers(1, 20), st.integers(100, 5_000)),
    )
    drawn = draw(st.lists(arrivals, min_size=1, max_size=most))
    drawn.sort(key=lambda arrival: arrival[0])
    return trace_of(
        Arrival(at * 10 * MS, org, workload, priority, duration * MS)
        for at, org, workload, priority, duration in drawn
    )


rules = st.sampled_from(list(Rule))
policies = st.builds(
    SimPolicy,
    rule=rules,
    slots=st.integers(1, 6),
    window=st.sampled_from([0, 0, 1, 3, 20]),
    orgs=st.fixed_dictionaries(
        {},
        optional={
            "ada": st.just(OrgSetting(weight=5)),
            "bob": st.just(OrgSetting(weight=2)),
        },
    ),
    workloads=st.just({"etl": WorkloadClass(share=3), "ocr": WorkloadClass(share=1, rank=1)}),
)


@law
@given(traces(), policies)
def test_any_trace_finishes_and_no_slot_is_free_while_a_task_waits(
    trace: Trace, policy: SimPolicy
) -> None:
    run = simulate(trace, policy)
    assert sorted(run.order) == list(range(len(trace)))
    assert all(start >= at for start, at in zip(run.start_us, trace.at_us, strict=True)), (
        "started before it came"
    )
    assert run.busy_us == sum(trace.duration_us) == sum(run.served_us)
    assert run.idle_us == 0
    slots_full_or_nothing_waits(run)


def slots_full_or_nothing_waits(run: Run) -> None:
    """Check the instants at which tasks wait: every slot is taken then."""
    trace = run.trace
    lives = list(zip(trace.at_us, run.start_us, trace.duration_us, strict=True))
    for instant in {at for at, start, _ in lives if start > at}:
        running = sum(start <= instant < start + took for _, start, took in lives)
        assert running == run.policy.slots


@law
@given(traces(), policies, st.integers(0, 2), st.sampled_from([None, 4]))
def test_a_reserve_holds_up_nothing_but_ordinary_tasks(
    trace: Trace, policy: SimPolicy, reserve: int, capacity: int | None
) -> None:
    workloads = dict(policy.workloads) | {"ocr": WorkloadClass(express=True)}
    run = simulate(
        trace,
        replace(policy, workloads=workloads, express_reserve=reserve, capacity=capacity),
    )
    assert sorted(run.order) == list(range(len(trace)))
    assert run.busy_us == sum(trace.duration_us)
    assert run.idle_us == 0
    ordinary = policy.slots - min(reserve, policy.slots - 1)
    etl = trace.workloads.index("etl") if "etl" in trace.workloads else -1
    assert most_running(run, of=lambda task: trace.workload[task] == etl) <= ordinary


@law
@given(traces(), policies, st.sampled_from([0, 7 * MS, 100 * MS]))
def test_the_same_trace_gives_the_same_run(trace: Trace, policy: SimPolicy, tick_us: int) -> None:
    policy = replace(policy, tick_us=tick_us)
    once, again = simulate(trace, policy), simulate(trace, policy)
    assert (once.order, once.start_us) == (again.order, again.start_us)
    assert report_of(once) == report_of(again)


@law
@given(traces(), policies, st.integers(1, 3), st.sampled_from([0, 50 * MS]))
def test_burst_max_is_never_exceeded(
    trace: Trace, policy: SimPolicy, burst_max: int, tick_us: int
) -> None:
    orgs = {org: OrgSetting(burst_max=burst_max) for org in trace.orgs}
    run = simulate(trace, replace(policy, orgs=orgs, tick_us=tick_us))
    assert len(run.order) == len(trace)
    assert max(run.peak) <= burst_max
    assert all(most_running(run, of_org(run, org)) <= burst_max for org in trace.orgs)


@law
@given(traces(), policies, st.integers(1, 8))
def test_capacity_bounds_what_is_admitted_and_unfinished(
    trace: Trace, policy: SimPolicy, capacity: int
) -> None:
    run = simulate(trace, replace(policy, capacity=capacity))
    assert len(run.order) == len(trace)
    for instant in set(run.start_us):
        running = sum(
            start <= instant < start + took
            for start, took in zip(run.start_us, trace.duration_us, strict=True)
        )
        assert running <= capacity


@law
@given(traces(most=80), policies)
def test_the_lag_of_the_weighted_rules_keeps_its_bound(trace: Trace, policy: SimPolicy) -> None:
    capped = dict(policy.orgs) | {"cyd": OrgSetting(burst_max=2)}
    for rule, tick_us in product((Rule.WEIGHTED, Rule.COUNT), (0, 30 * MS)):
        changed = replace(policy, rule=rule, orgs=capped, tick_us=tick_us)
        report = report_of(simulate(trace, changed))
        for lag in (report.lag, report.window_lag):
            assert lag is None or lag.ratio <= 1 + 1e-9


@law
@given(traces(), st.integers(1, 6), st.integers(1, 5))
def test_the_simulator_decides_as_the_scheduler_does(trace: Trace, slots: int, weight: int) -> None:
    policy = SimPolicy(slots=slots, check_us=10**12, orgs={"ada": OrgSetting(weight=weight)})
    assert list(simulate(trace, policy).order) == driven(trace, slots, weight)


def driven(trace: Trace, slots: int, weight: int) -> list[int]:
    """Drive a scheduler by hand: at each instant settle, wake, arrive, plan."""
    scheduler = WeightedScheduler()
    waiting: list[int] = []
    running: dict[int, tuple[int, object]] = {}
    order: list[int] = []
    now = 0
    while len(order) < len(trace) or running:
        coming = [at for at in trace.at_us if at > now or (at == now == 0 and not order)]
        now = min([*(end for end, _ in running.values()), *coming])
        for task in sorted(running, key=lambda task: (running[task][0], task)):
            end, pick = running[task]
            if end <= now:
                scheduler.settle(settled(pick, trace.duration_us[task]))  # type: ignore[arg-type]
                del running[task]
        scheduler.wake()
        for task, arrival in enumerate(trace):
            if arrival.at_us <= now and task not in order and task not in waiting:
                if arrival.org not in scheduler.orgs:
                    own = weight if arrival.org == "ada" else 1
                    scheduler.configure(
                        arrival.org, weight=own, rank=0, burst_max=None, paused=False
                    )
                scheduler.arrive(arrival.org, arrival.workload, 1)
                waiting.append(task)
        for pick in scheduler.plan(slots - len(running)).picks:
            flow = [
                task
                for task in waiting
                if (trace.arrival(task).org, trace.arrival(task).workload)
                == (pick.org, pick.workload)
            ]
            task = min(flow, key=lambda task: (-trace.priority[task], task))
            waiting.remove(task)
            order.append(task)
            running[task] = (now + trace.duration_us[task], pick)
    return order
