"""A shadow beside a leader on the database: it hears all, changes nothing, and may break."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from orchestrator.fairness.shadowing.shadow import Shadow
from orchestrator.leader.reign import FAIRNESS_WINDOW_S
from orchestrator.model import AttemptStatus, CostMode
from orchestrator.policyfile import parse_override
from orchestrator.store import admission, leadership, orgs, shadow
from orchestrator.store.shadow import Reported
from orchestrator.store.sql import run
from tests.support.stage import Stage
from tests.support.stepping import SteppedLeader, ack, cancel, claim, enqueue, give_back, tasks
from tests.unit.histories import snapshot

# As much as nothing, but enough to be a candidate: nobody is called that.
NOTHING = "org:nobody.weight=7"


def propose(stage: Stage, *settings: str, queue: int = 1) -> None:
    overrides = [parse_override(text) for text in settings]
    (config,) = [each for each in run(stage.db, leadership.queues()) if each.id == queue]
    with stage.db.transaction():
        run(stage.db, shadow.set_policy(config, overrides, actor="test"))


def beside(leader: SteppedLeader) -> Shadow | None:
    return leader.reign.shadow._shadow


def report(leader: SteppedLeader) -> None:
    """Let a window of the leader end."""
    leader.reign._report_fairness(leader.reign._reported_at + FAIRNESS_WINDOW_S)


def told(stage: Stage, queue: int = 1) -> Reported | None:
    found: Reported | None = run(stage.db, shadow.reported(queue))
    return found


# Nothing live is changed --------------------------------------------------------------------------


class Step(NamedTuple):
    """What happens between two ticks, in each queue alike."""

    staged: list[tuple[str, str, int]]
    claimed: int
    failing: bool
    cancelled: bool
    critical: int
    weight: int | None


steps = st.builds(
    Step,
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(("api", "etl")), st.integers(1, 12)),
        max_size=3,
    ),
    st.integers(0, 8),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
    st.sampled_from((None, None, None, 1, 5)),
)


def happen(stage: Stage, step: Step, queue: int) -> None:
    for org, workload, count in step.staged:
        specs = tasks(count, org, workload=workload)
        specs += tasks(step.critical, org, workload=workload, critical=True)
        staged = enqueue(stage.db, specs, queue_id=queue)
        if step.cancelled:
            cancel(stage.db, staged[0].id)
            # Of this one, if it is critical, the leader learns by what it admits instead.
            cancel(stage.db, staged[-1].id)
    claims = claim(stage.db, step.claimed, queue_id=queue)
    if step.failing:
        give_back(stage.db, claims, AttemptStatus.FAILED, queue_id=queue)
    else:
        ack(stage.db, claims, queue_id=queue)


def admitted(stage: Stage, queue: int) -> list[tuple[str, str]]:
    """Return the flows in the order of their admissions."""
    rows = stage.rows(
        "select o.org, o.workload from orchestrator.tick_log t,"
        " unnest(t.orgs, t.workloads, t.counts) with ordinality as o(org, workload, count, place),"
        " generate_series(1, o.count) where t.queue = %s order by t.admit_seq, o.place",
        queue,
    )
    return [(org, workload) for org, workload in rows]


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate,),
    # Each example has two new queues of its own; the database is the same.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(history=st.lists(steps, min_size=4, max_size=14))
def test_the_order_of_admission_is_the_same_with_and_without_a_shadow(
    stage: Stage, history: list[Step]
) -> None:
    """And a candidate that says nothing of what there is stays equal bit for bit."""
    name = f"q{stage.one('select count(*) from orchestrator.queue')}"
    # Counting tasks, the order depends on no clock; the twin of its leader sees times that do.
    modes = {"": CostMode.COUNT, "_shadowed": CostMode.COUNT, "_same": CostMode.TIME}
    for suffix, mode in modes.items():
        fields: dict[str, Any] = {"ready_max": 6, "capacity": 9, "cost_mode": mode}
        with stage.db.transaction():
            run(stage.db, orgs.set_queue(name + suffix, actor="test", **fields))
    ids = stage.rows("select id from orchestrator.queue where name like %s order by id", name + "%")
    plain, shadowed, same = (number for (number,) in ids)
    propose(stage, "org:a.weight=50", "org:b.burst_max=2", "queue.policy=strict", queue=shadowed)
    propose(stage, NOTHING, queue=same)
    leaders = [stage.leader(queue=queue) for queue in (plain, shadowed, same)]
    for step in history:
        if step.weight is not None:
            stage.set_org("c", weight=step.weight)
        for queue in (plain, shadowed, same):
            happen(stage, step, queue)
        for leader in leaders:
            leader.step()
        assert beside(leaders[1]) is not None
        equal = beside(leaders[2])
        assert equal is not None
        assert snapshot(equal.scheduler) == snapshot(leaders[2].scheduler)
    assert admitted(stage, shadowed) == admitted(stage, plain)
    for leader in leaders:
        leader.close()


def test_a_candidate_is_seen_by_the_next_tick_and_told_of_by_the_window(stage: Stage) -> None:
    leader = stage.leader()
    for org in ("a", "b"):
        stage.enqueue(200, org)
    assert beside(leader) is None
    propose(stage, "org:a.weight=40", "queue.cost_mode=count")
    leader.step()
    assert beside(leader) is not None
    for _ in range(10):
        ack(stage.db, claim(stage.db, 4))
        leader.step()
    assert told(stage) is None
    report(leader)
    found = told(stage)
    assert found is not None
    assert found.report is not None
    assert found.started_at < found.updated_at
    by_org = {org.name: org for org in found.report.orgs}
    assert by_org["a"].shadow > by_org["a"].live
    assert by_org["a"].dwell_change_s < 0 < by_org["b"].dwell_change_s
    assert found.report.total.live == stage.one("select sum(admitted) from orchestrator.tick_log")


def test_a_twin_of_what_outgrows_its_charge_is_charged_for_it_too(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.leader.refresh.REFRESH_INTERVAL_S", 0)
    monkeypatch.setattr(admission, "REFRESH_INTERVAL_S", 0)
    propose(stage, NOTHING)
    leader = stage.leader()
    stage.enqueue(2, "a")
    leader.drain_ticks()
    (claimed,) = claim(stage.db, 1)
    stage.do(
        "update orchestrator.task_queue set claimed_at = claimed_at - interval '8 s'"
        " where claim_id is not null"
    )
    before = leader.scheduler.orgs["a"].main.tag
    # A refresh comes with a round that may admit.
    stage.enqueue(1, "b")
    leader.step()
    equal = beside(leader)
    assert equal is not None
    assert leader.scheduler.orgs["a"].main.tag > before
    assert snapshot(equal.scheduler) == snapshot(leader.scheduler)
    ack(stage.db, [claimed])
    leader.step()
    assert snapshot(equal.scheduler) == snapshot(leader.scheduler)


def test_nothing_is_written_while_nothing_happens(stage: Stage) -> None:
    propose(stage, "org:a.weight=40")
    leader = stage.leader()
    report(leader)
    assert told(stage) is None
    stage.enqueue(3)
    leader.step()
    report(leader)
    found = told(stage)
    assert found is not None
    for _ in range(3):
        leader.step()
        report(leader)
    assert told(stage) == found


def test_what_a_lower_cap_holds_back_is_admitted_while_nothing_happens_live(stage: Stage) -> None:
    propose(stage, "org:a.burst_max=2")
    leader = stage.leader()
    stage.enqueue(6, "a")
    leader.step()
    candidate = beside(leader)
    assert candidate is not None
    assert (leader.scheduler.in_flight, candidate.scheduler.in_flight) == (6, 2)
    for _ in range(6):
        ack(stage.db, claim(stage.db, 1))
        leader.step()
    assert leader.scheduler.in_flight == 0
    assert candidate.scheduler.backlog < 4
    # Nothing is to be done live any more; the candidate goes on by the clock.
    steps = 0
    while candidate.scheduler.backlog or candidate.scheduler.in_flight:
        leader.step()
        steps += 1
        assert steps < 10_000


def test_another_candidate_begins_anew_and_none_ends_it(stage: Stage) -> None:
    propose(stage, "org:a.weight=40")
    leader = stage.leader()
    stage.enqueue(3)
    leader.step()
    first = beside(leader)
    report(leader)
    # A change of the live configuration is followed, and is no new beginning.
    stage.set_org("b", weight=3)
    leader.step()
    assert beside(leader) is first
    propose(stage, "org:a.weight=41")
    assert told(stage) is None
    leader.step()
    assert beside(leader) is not first
    # What is said of the candidate before is not taken for this one.
    report(leader)
    assert told(stage) is None
    with stage.db.transaction():
        (config,) = run(stage.db, leadership.queues(["default"]))
        assert run(stage.db, shadow.clear(config, actor="test")) is True
    leader.step()
    assert beside(leader) is None
    assert run(stage.db, shadow.policy(1)) is None


def test_a_takeover_begins_anew_and_the_last_report_stays_until_then(stage: Stage) -> None:
    propose(stage, "org:a.weight=40")
    leader = stage.leader()
    stage.enqueue(3)
    leader.step()
    report(leader)
    before = told(stage)
    leader.close()
    successor = stage.leader()
    assert told(stage) == before
    candidate = beside(successor)
    assert candidate is not None
    assert candidate.scheduler.in_flight == 3
    stage.enqueue(2)
    successor.step()
    report(successor)
    after = told(stage)
    assert before is not None
    assert after is not None
    assert after.report is not None
    assert after.started_at > before.started_at
    assert after.report.total.live == 2


# A shadow that breaks -----------------------------------------------------------------------------


def test_a_shadow_that_breaks_stops_nothing_and_says_so(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose(stage, "org:a.weight=40")
    leader = stage.leader()
    stage.enqueue(3)
    leader.step()
    report(leader)

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("by hand")

    with monkeypatch.context() as patch:
        patch.setattr(Shadow, "admit", broken)
        stage.enqueue(4)
        assert leader.step().admitted == 4
        assert beside(leader) is None
        assert leader.step().admitted == 0
    report(leader)
    found = told(stage)
    assert found is not None
    assert found.failure == "ZeroDivisionError: by hand"
    # What was compared before is still there.
    assert found.report is not None
    assert found.report.total.live == 3
    # It is tried again once the configuration has changed.
    stage.set_org("b", weight=3)
    leader.step()
    assert beside(leader) is not None


def test_a_report_that_cannot_be_made_is_told_of(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose(stage, "org:a.weight=40")
    leader = stage.leader()
    stage.enqueue(3)
    leader.step()

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("by hand")

    monkeypatch.setattr(Shadow, "report", broken)
    report(leader)
    found = told(stage)
    assert found is not None
    assert (found.failure, found.report) == ("ZeroDivisionError: by hand", None)


def test_a_candidate_that_makes_no_sense_any_more_is_given_up(stage: Stage) -> None:
    stage.set_queue(capacity=10)
    propose(stage, "queue.headroom=2")
    leader = stage.leader()
    assert beside(leader) is not None
    stage.set_queue(capacity=None)
    stage.enqueue(2)
    assert leader.step().admitted == 2
    assert beside(leader) is None
    report(leader)
    found = told(stage)
    assert found is not None
    assert "set capacity too" in str(found.failure)


def test_a_repair_begins_the_shadow_anew(stage: Stage) -> None:
    propose(stage, NOTHING)
    leader = stage.leader()
    stage.enqueue(5)
    leader.step()
    first = beside(leader)
    leader.scheduler.set_in_flight("a", 3)
    leader.reign.sweep()
    again = beside(leader)
    assert again is not first
    assert again is not None
    assert snapshot(again.scheduler) == snapshot(leader.scheduler)
