"""What a monitor is told: the figures of a led queue, and what is counted as it happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from orchestrator import Client
from orchestrator.config import LeaderSettings, MetricsSettings, Settings
from orchestrator.leader.figures import Figures
from orchestrator.leader.replica import Replica
from orchestrator.store import leadership
from orchestrator.store.figures import Reading, queue_figures
from orchestrator.store.sql import run
from orchestrator.telemetry.figures import Board, OrgFigures, QueueFigures
from orchestrator.telemetry.health import Health
from orchestrator.telemetry.listener import Listener
from orchestrator.telemetry.metrics import CATALOGUE, Histogram
from orchestrator.worker.app import App, Discard, Snooze, Task
from tests.support.ready import put_ready
from tests.support.replica import replica_thread
from tests.support.stage import Stage
from tests.support.stepping import claim
from tests.support.waiting import until
from tests.support.worker import enqueue, until_ended, working

ALWAYS = Settings(
    leader=LeaderSettings(election_poll_s=0.05),
    metrics=MetricsSettings(listen="127.0.0.1:0", interval_s=1),
)
NOTHING = QueueFigures(0, 0, 0, 0, 0.0, 0.0, 0.0, 0, 0, None, None, None, None, at=100.0)


def values(families: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """Return each value by its name and the values of its labels."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def scraped(listener: Listener) -> dict[tuple[str, ...], float]:
    status, _, body = listener.answer("/metrics")
    assert status == 200
    return values(text_string_to_metric_families(body.decode()))


def read(stage: Stage, *, orgs_max: int = 20) -> Reading:
    (queue,) = run(stage.db, leadership.queues(["default"]))
    with stage.db.transaction():
        found: Reading = run(stage.db, queue_figures(queue, orgs_max=orgs_max))
    return found


def test_figures_tell_what_is_in_the_tables(stage: Stage) -> None:
    put_ready(stage, 3)
    stage.do("update orchestrator.task set created_at = now() - interval '1 hour'")
    assert len(claim(stage.db, limit=2)) == 2
    stage.expire_leases()
    stage.enqueue(150, org="noisy")
    stage.enqueue(2, org="quiet")
    stage.do(
        "update orchestrator.task set created_at = now() - interval '2 hours'"
        " where org_id = 'noisy'"
    )
    stage.enqueue(1, org="quiet", delay=60.0)
    figures = read(stage).figures
    # Flows are counted up to 100; of longer ones the leader knows, and there is none.
    assert (figures.staged, figures.scheduled, figures.waiting_orgs) == (102, 1, 2)
    assert (figures.in_flight, figures.ready) == (3, 1)
    assert 7190 < figures.oldest_s < 7300
    assert 3590 < figures.oldest_quiet_s < 3700
    assert 0 < figures.lease_overdue_s < 60
    assert (figures.jain, figures.lag_ratio, figures.starved) == (None, None, None)
    # All slots are org a's, which wants no more; the others want some and have none.
    assert figures.share_worst == 0.0


def test_a_paused_org_waits_because_somebody_said_so(stage: Stage) -> None:
    stage.enqueue(2, org="paused")
    stage.do("insert into orchestrator.org_config (org_id, paused_at) values ('paused', now())")
    figures = read(stage).figures
    assert figures.staged == 2
    assert (figures.oldest_s, figures.oldest_quiet_s, figures.share_worst) == (0.0, 0.0, None)


def test_orgs_are_shown_by_name_up_to_a_bound(stage: Stage) -> None:
    put_ready(stage, 2)
    for number in range(8):
        stage.enqueue(number + 1, org=f"org {number}")
    stage.enqueue(50, org="other")
    stage.enqueue(20, org='evil"} 1\norchestrator_leader{queue="x')
    orgs = {org.org: org for org in read(stage, orgs_max=4).figures.orgs}
    assert len(orgs) == 5
    assert orgs["a"].in_flight == 2
    assert sum(org.staged for org in orgs.values()) == sum(range(1, 9)) + 70
    # An org that is called like the others is one of them.
    assert orgs["other"].staged >= 50 + 1
    listener = Listener("127.0.0.1", 0, Health(), _board(read(stage, orgs_max=4).figures).collect)
    shown = scraped(listener)
    assert ("orchestrator_leader", "x") not in shown
    assert (
        shown["orchestrator_org_staged_tasks", 'evil"} 1\norchestrator_leader{queue="x', "q"] == 20
    )


def _board(figures: QueueFigures) -> Board:
    board = Board(clock=lambda: 110.0)
    board.show(board.lead("q", 7), replace(figures, at=100.0))
    return board


def test_what_is_led_no_more_is_shown_no_more() -> None:
    board = Board(clock=lambda: 110.0)
    board.stand(["q", "p"])
    first = board.lead("q", 7)
    assert board.show(first, NOTHING)
    shown = values(board.collect())
    assert shown["orchestrator_leader", "q"] == 1
    assert shown["orchestrator_leader", "p"] == 0
    assert shown["orchestrator_leader_epoch", "q"] == 7
    assert shown["orchestrator_staged_tasks", "q"] == 0
    second = board.lead("q", 9)
    # The reading of the term before was still under way.
    assert not board.show(first, replace(NOTHING, staged=5))
    board.leave(first)
    shown = values(board.collect())
    assert shown["orchestrator_leader_epoch", "q"] == 9
    assert ("orchestrator_staged_tasks", "q") not in shown
    board.leave(second)
    assert values(board.collect()) == {
        ("orchestrator_leader", "p"): 0,
        ("orchestrator_leader", "q"): 0,
    }


def test_old_figures_are_not_shown_as_if_they_were_new() -> None:
    now = 100.0
    board = Board(clock=lambda: now)
    org = OrgFigures("a", 1, 1, 1.0)
    board.show(board.lead("q", 7), replace(NOTHING, orgs=(org,), stale_after_s=60))
    now = 160.0
    assert ("orchestrator_org_staged_tasks", "a", "q") in values(board.collect())
    now = 161.0
    left = {name for name, *_ in values(board.collect())}
    assert left == {
        "orchestrator_leader",
        "orchestrator_leader_epoch",
        "orchestrator_last_tick_timestamp_seconds",
    }


def test_a_leader_shows_its_queue_and_stops_when_it_steps_down(dsn: str, stage: Stage) -> None:
    stage.enqueue(3, org="a")
    stage.do("insert into orchestrator.org_config (org_id, paused_at) values ('a', now())")

    def shows(made: Replica, staged: float) -> bool:
        return values(made.board.collect()).get(("orchestrator_staged_tasks", "default")) == staged

    with replica_thread(dsn, ALWAYS) as first:
        until(lambda: shows(first, 3), "the leader shows the figures")
        with replica_thread(dsn, ALWAYS) as second:
            until(second.board.collect, "the second replica stands by")
            first.stop()
            until(lambda: not first.leading(), "the first has stepped down")
            assert ("orchestrator_staged_tasks", "default") not in values(first.board.collect())
            until(lambda: shows(second, 3), "the next leader shows them, read anew")
            lit = [
                values(made.board.collect())["orchestrator_leader", "default"]
                for made in (first, second)
            ]
            assert lit == [0, 1]


def test_only_slots_given_beyond_a_cap_are_over_it(dsn: str, stage: Stage) -> None:
    stage.leader()
    put_ready(stage, 3)
    board = Board()
    vitals: Any = _FakeTerm(stage, board)
    figures = Figures(dsn, MetricsSettings(interval_s=1), board, lambda: [vitals])

    def over() -> float:
        for term in figures._terms.values():
            term.due_at = 0.0
        figures.read()
        return values(board.collect())["orchestrator_over_cap_orgs", "default"]

    try:
        assert over() == 0
        stage.set_org("a", burst_max=2)
        # Lowered below what is held: nothing is killed, and nothing was given.
        assert over() == 0
        assert over() == 0
        put_ready(stage, 1)
        assert over() == 1
        assert over() == 0
    finally:
        figures.close()


class _FakeTerm:
    """A term without a leader at work, so that slots can be given by hand."""

    def __init__(self, stage: Stage, board: Board) -> None:
        (self.queue,) = run(stage.db, leadership.queues(["default"]))
        self.lead = board.lead("default", 1)

    def staged(self) -> int:
        return 0


def test_what_is_counted_is_what_the_history_says(dsn: str, stage: Stage) -> None:
    app = App()
    tries: Counter[int] = Counter()

    @app.task("end")
    def end(task: Task) -> Snooze | Discard | None:
        tries[task.id] += 1
        if task.payload == "discard":
            return Discard("no")
        if task.payload == "snooze" and tries[task.id] == 1:
            return Snooze(0.0)
        if task.payload == "fail":
            raise RuntimeError("as planned")
        return None

    listener = Listener("127.0.0.1", 0, Health())
    before = scraped(listener)
    with replica_thread(dsn, ALWAYS) as leader, working(app, dsn) as worker:
        until(leader.leading, "it leads")
        ids = [
            *enqueue(stage, "end", 5),
            *enqueue(stage, "end", 2, payload="discard"),
            *enqueue(stage, "end", 1, payload="snooze"),
            *enqueue(stage, "end", 2, payload="fail", max_attempts=1),
        ]
        with Client(dsn) as client:
            expired = client.enqueue("nobody", org="z", delay=3600)
            stage.do(
                "update orchestrator.scheduled_queue set expires_at = now() where task_id = %s",
                expired.id,
            )
            stage.do("update orchestrator.task set expires_at = now() where id = %s", expired.id)
        until_ended(stage, [*ids, expired.id])
        until(lambda: worker.worker.collect()[1].samples[0].value == 0, "nothing runs")
    after = scraped(listener)

    def rise(*key: str) -> float:
        return after.get(key, 0.0) - before.get(key, 0.0)

    told = {
        status: rise("orchestrator_outcomes_total", "default", status)
        for status in ("succeeded", "discarded", "snoozed", "failed", "dead", "expired", "released")
    }
    counted = Counter(
        dict(stage.rows("select status, count(*) from orchestrator.task_attempt group by 1"))
    )
    assert told == {status: float(counted[status]) for status in told}
    assert (told["succeeded"], told["discarded"], told["dead"]) == (6, 2, 2)
    assert rise("orchestrator_dead_letters_total", "default") == 2
    assert rise("orchestrator_expirations_total", "default") == 1
    assert rise("orchestrator_claims_total", "default") == 11
    assert rise("orchestrator_admissions_total", "default") == 11
    assert rise("orchestrator_elections_total", "default") == 1
    # First attempts alone: the snoozed one is claimed twice, and its second attempt is no first.
    assert rise("orchestrator_admission_wait_seconds_count", "default") >= 10
    assert rise("orchestrator_run_duration_seconds_count", "default") == 11
    assert rise("orchestrator_tick_duration_seconds_count", "default") > 0


def test_a_batch_of_values_is_counted_as_each_of_them_would_be() -> None:
    histogram = Histogram("h", "help", (1, 2, 5), ("queue",))
    histogram.observe_all([0.5, 1.0, 1.5, 7.0], "q")
    histogram.observe(2.0, "q")
    assert values(histogram.collect()) == {
        ("h_bucket", "1", "q"): 2,
        ("h_bucket", "2", "q"): 4,
        ("h_bucket", "5", "q"): 4,
        ("h_bucket", "+Inf", "q"): 5,
        ("h_count", "q"): 5,
        ("h_sum", "q"): pytest.approx(12.0),
    }


def test_many_values_are_counted_as_few_are() -> None:
    bounds = (1, 2, 5)
    many = [0.5, 7.0, 2.0, 1.0, 1.5, 5.0, 5.5, 0.0]
    at_once, one_by_one = Histogram("h", "help", bounds, ()), Histogram("h", "help", bounds, ())
    at_once.observe_all(many)
    for value in many:
        one_by_one.observe(value)
    assert values(at_once.collect()) == values(one_by_one.collect())


def test_names_are_unique_and_say_their_unit() -> None:
    names = [metric.name for metric in CATALOGUE]
    assert len(names) == len(set(names))
    for metric in CATALOGUE:
        assert metric.name.startswith("orchestrator_")
        assert metric.help.endswith(".")
        if metric.kind == "histogram":
            assert metric.name.endswith("_seconds")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert set(metric.labels) <= {
            "queue",
            "status",
            "found",
            "loop",
            "chore",
            "org",
            "method",
            "route",
            "store",
        }
