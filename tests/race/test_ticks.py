"""A tick beside whatever may come between its statements, in every order.

A tick is stopped before its fence, before it looks, before it moves rows and before its commit. In
whatever order the others go: the younger term alone admits, no org is over its cap, no task is in
two places, and a recount finds what the leader believes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from psycopg import Connection

from orchestrator.config import LeaderSettings
from orchestrator.errors import LeadershipLost
from orchestrator.leader.tick import Ticked
from orchestrator.model import CancelOutcome
from orchestrator.store import admission, cut, leadership, orgs, queue, tasks
from orchestrator.store.lean import TEXTS as TICKS
from tests.support.interleave import Actor, Cast, Script, alone, code, explore, together
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import PATIENT, SteppedLeader, ack, claim, reap

# Where a tick and an election stop: what they do between two of these, nobody can see.
STOPS = {admission.SQL[name] for name in ("attempt_feed", "fence", "probe", "commit")}
STOPS |= TICKS | {leadership.SQL["elect"], cut.SQL["load_queue"], b"commit"}
EAGER: LeaderSettings = PATIENT.model_copy(update={"floor_interval_s": 0.0})
CAP = 2


def ticking(leader: SteppedLeader) -> Script:
    return code(leader.connection, leader.tick, stops=STOPS)


def electing(leader: SteppedLeader) -> Script:
    return code(leader.connection, lambda: leader.elect(lock=False), stops=STOPS)


class Scenes:
    """Leaders that are made anew for each order, and a queue that is emptied after each."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.leaders: list[SteppedLeader] = []

    def leader(self, *, elected: bool = True) -> SteppedLeader:
        """Return a leader that does not outlive the order it plays in."""
        leader = SteppedLeader(self.stage.dsn, settings=EAGER)
        self.leaders.append(leader)
        return leader.elect(lock=False) if elected else leader

    def close(self) -> None:
        """Let every task end, under a leader that finds nothing to repair."""
        for leader in self.leaders:
            leader.close()
        self.leaders.clear()
        last = self.leader()
        check(self.stage.db)
        while True:
            last.tick()
            assert last.sweep() == []
            ack(self.stage.db, claims := claim(self.stage.db, 10))
            if not claims and not self.stage.one("select count(*) from orchestrator.staging_queue"):
                break
        self.stage.expire_leases()
        reap(self.stage.db)
        last.tick()
        assert last.scheduler.in_flight == 0
        last.close()
        self.leaders.clear()
        self.stage.do("delete from orchestrator.tick_log")


@pytest.fixture
def scenes(stage: Stage) -> Scenes:
    stage.set_org("a", burst_max=CAP)
    return Scenes(stage)


def held(stage: Stage) -> int:
    return int(stage.one("select count(*) from orchestrator.task_queue"))


def admitted(actor: Actor) -> int:
    """Return how many tasks the tick admitted: none where it was refused, and for no other."""
    assert actor.error is None or isinstance(actor.error, LeadershipLost)
    return actor.value.admitted if isinstance(actor.value, Ticked) else 0


def test_of_two_ticks_only_that_of_the_younger_term_admits(scenes: Scenes) -> None:
    stage = scenes.stage

    def scene() -> Cast:
        stage.enqueue(3)
        leaders = [scenes.leader(), scenes.leader()]
        return {
            name: Actor(leader.connection, ticking(leader))
            for name, leader in zip(("older", "younger"), leaders, strict=True)
        }

    def outcome(cast: Cast) -> None:
        assert isinstance(cast["older"].error, LeadershipLost)
        assert admitted(cast["younger"]) == CAP == held(stage)
        scenes.close()

    assert explore(stage.db, scene, outcome, most=10) > 1


def test_a_tick_beside_an_election_is_known_to_the_next_term_or_refused(scenes: Scenes) -> None:
    stage = scenes.stage

    def scene() -> Cast:
        stage.enqueue(3)
        before, after = scenes.leader(), scenes.leader(elected=False)
        return {
            "tick": Actor(before.connection, ticking(before)),
            "elect": Actor(after.connection, electing(after)),
        }

    def outcome(cast: Cast) -> None:
        assert cast["elect"].error is None
        done, (_, after) = admitted(cast["tick"]), scenes.leaders
        assert done == held(stage)
        assert after.tick().admitted == CAP - done
        assert after.scheduler.in_flight == CAP
        scenes.close()

    assert explore(stage.db, scene, outcome, most=14) > 1


def lowering(connection: Connection[Any]) -> Script:
    """Lower the cap; return how many are in flight once no tick can overlook it."""
    connection.execute("begin")
    yield from alone(connection, orgs.set_org("a", burst_max=1, actor="test"))
    yield
    # What happens at the commit, a moment before it: `config_changed` takes the fence.
    connection.execute("set constraints all immediate")
    yield
    ((seen,),) = connection.execute("select count(*) from orchestrator.task_queue").fetchall()
    yield
    connection.execute("commit")
    return seen


def test_a_cap_that_was_lowered_before_the_fence_is_kept_by_that_tick(scenes: Scenes) -> None:
    stage = scenes.stage
    operator = stage.connect()

    def scene() -> Cast:
        stage.set_org("a", burst_max=CAP)
        stage.enqueue(3)
        leader = scenes.leader()
        return {
            "tick": Actor(leader.connection, ticking(leader)),
            "lower": Actor(operator, lowering(operator)),
        }

    def outcome(cast: Cast) -> None:
        assert cast["lower"].error is None
        done = admitted(cast["tick"])
        assert done == held(stage)
        assert done <= max(1, cast["lower"].value)
        scenes.close()

    assert explore(stage.db, scene, outcome, most=14) > 1


def test_a_replayed_task_beside_a_tick_is_admitted_once(scenes: Scenes) -> None:
    stage = scenes.stage
    operator = stage.connect()

    def scene() -> Cast:
        (dead,) = stage.enqueue(1, max_attempts=1)
        leader = scenes.leader()
        assert leader.tick().admitted == 1
        claim(stage.db, 1)
        stage.expire_leases()
        ((task_id, verdict),) = reap(stage.db)
        assert (task_id, verdict) == (dead, "dead")
        stage.enqueue(1)
        return {
            "tick": Actor(leader.connection, ticking(leader)),
            "retry": Actor(operator, together(operator, tasks.retry(dead))),
        }

    def outcome(cast: Cast) -> None:
        assert cast["retry"].error is None
        check(stage.db)
        admitted(cast["tick"])
        (leader,) = scenes.leaders
        leader.drain_ticks()
        assert held(stage) == CAP
        assert stage.rows("select attempt from orchestrator.task_queue") == [(0,), (0,)]
        scenes.close()

    assert explore(stage.db, scene, outcome, most=14) > 1


@pytest.mark.parametrize("rival", ["claim", "cancel"])
def test_a_tick_that_rolls_back_and_plans_again_hides_nothing_below_its_floor(
    scenes: Scenes, rival: str
) -> None:
    stage = scenes.stage
    other = stage.connect()

    def scene() -> Cast:
        stage.set_org("a", burst_max=3)
        leader = scenes.leader()
        low = stage.enqueue(1, priority=1)
        leader.tick()
        wanted, _ = stage.enqueue(2, priority=10)
        assert wanted > low[0]
        scripts: dict[str, Callable[[], Script]] = {
            "claim": lambda: alone(
                other, queue.claim(1, "default", uuid4(), limit=1, lease_s=30, worker="test")
            ),
            "cancel": lambda: together(other, tasks.cancel(wanted, reason="test")),
        }
        return {
            "tick": Actor(leader.connection, ticking(leader)),
            rival: Actor(other, scripts[rival]()),
        }

    def outcome(cast: Cast) -> None:
        check(stage.db)
        admitted(cast["tick"])
        (leader,) = scenes.leaders
        leader.drain_ticks()
        check(stage.db)
        if rival == "claim":
            assert [c.priority for c in cast["claim"].value] in ([1], [10])
        else:
            assert cast["cancel"].value is CancelOutcome.CANCELLED
        # All that is unclaimed is found.
        left = stage.one("select count(*) from orchestrator.task_queue where claim_id is null")
        assert len(claim(stage.db, 10)) == left == 2
        stage.expire_leases()
        reap(stage.db)
        scenes.close()

    assert explore(stage.db, scene, outcome, most=10) > 1
