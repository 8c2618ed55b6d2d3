"""The floor hides no claimable row, whatever happens to ticks, terms and kappa."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from orchestrator.config import LeaderSettings
from orchestrator.errors import LeadershipLost, OrchestratorError
from orchestrator.model import AttemptStatus, Claim
from tests.support.invariants import check
from tests.support.stage import Stage
from tests.support.stepping import (
    PATIENT,
    SteppedLeader,
    ack,
    cancel,
    claim,
    give_back,
    reap,
)
from tests.support.waiting import PATIENCE_S, until_blocked

# A floor at every tick, not at most every 50 ms.
EAGER: LeaderSettings = PATIENT.model_copy(update={"floor_interval_s": 0.0, "batch_max": 20})


def floor(stage: Stage) -> int:
    value: int = stage.one("select pg_sequence_last_value('orchestrator.floor_1')")
    return value


def claim_all(stage: Stage) -> list[int]:
    taken: list[int] = []
    while claims := claim(stage.db, 100):
        taken += [c.id for c in claims]
    return taken


def kill_between_move_and_commit(stage: Stage, leader: SteppedLeader) -> bool:
    """End the leader's session inside a tick that has moved rows; False if the tick moved none."""
    holder = stage.connect()
    holder.execute("begin")
    # Moving comes first, then this row is written.
    holder.execute("select from orchestrator.queue_state where queue = 1 for update")
    tick = stage.start(leader.tick)
    while not tick.done():
        try:
            until_blocked(stage.db, leader.connection, by=holder, patience_s=0.01)
        except TimeoutError:
            continue
        stage.do("select pg_terminate_backend(%s)", leader.connection.info.backend_pid)
        with pytest.raises((OrchestratorError, psycopg.Error)):
            tick.result(PATIENCE_S)
        leader.close()
        holder.close()
        return True
    holder.close()
    assert tick.result().admitted == 0
    return False


def test_a_task_of_high_priority_admitted_behind_the_floor_of_low_ones_is_found(
    stage: Stage,
) -> None:
    leader = stage.leader(settings=EAGER)
    low = stage.enqueue(3, priority=1)
    leader.drain_ticks()
    leader.reign.tick.publish_floor()
    high = stage.enqueue(1, priority=10)
    leader.drain_ticks()
    assert claim_all(stage) == [*high, *low]
    leader.reign.tick.publish_floor()
    last = stage.enqueue(1, priority=10)
    leader.drain_ticks()
    assert claim_all(stage) == last
    check(stage.db)


def test_the_floor_moves_on_with_admissions(stage: Stage) -> None:
    leader = stage.leader(settings=EAGER)
    before = floor(stage)
    for _ in range(5):
        stage.enqueue(10)
        leader.drain_ticks()
        ack(stage.db, claim(stage.db, 10))
    leader.reign.tick.publish_floor()
    assert floor(stage) == before + 50 * 16


def test_a_tick_killed_between_move_and_commit_leaves_everything_as_it_was(stage: Stage) -> None:
    leader = stage.leader(settings=EAGER)
    first = stage.enqueue(5, priority=1)
    leader.drain_ticks()
    second = stage.enqueue(5, priority=10)
    published = floor(stage)
    assert kill_between_move_and_commit(stage, leader)
    assert stage.one("select count(*) from orchestrator.staging_queue") == 5
    # Sequences roll nothing back: what the dead tick published must be true all the same.
    assert floor(stage) >= published
    check(stage.db)
    successor = stage.leader(settings=EAGER)
    successor.drain_ticks()
    check(stage.db)
    assert claim_all(stage) == [*second, *first]


def test_a_deposed_leader_publishes_no_floor(stage: Stage) -> None:
    deposed = stage.leader(settings=EAGER)
    stage.enqueue(5)
    deposed.drain_ticks()
    successor = stage.leader(lock=False, settings=EAGER)
    before = floor(stage)
    with pytest.raises(LeadershipLost):
        deposed.reign.tick.publish_floor()
    assert floor(stage) == before
    assert successor.tick().admitted == 0


@pytest.mark.parametrize("kappa", [0, 7, 100, 1_000])
def test_kappa_changed_at_run_time_hides_nothing(stage: Stage, kappa: int) -> None:
    leader = stage.leader(settings=EAGER)
    everything: list[int] = []
    for step in (kappa, 100, 3, 500, kappa):
        everything += stage.enqueue(2, priority=1) + stage.enqueue(2, priority=10)
        leader.drain_ticks()
        leader.reign.tick.publish_floor()
        stage.set_queue(kappa=step)
        # In memory only, until a tick admits something.
        leader.tick()
        check(stage.db)
    assert sorted(claim_all(stage)) == sorted(everything)


@pytest.mark.parametrize("kappas", [(500, 100), (3, 100), (500, 3)])
def test_a_kappa_that_was_never_persisted_hides_nothing_from_the_next_term(
    stage: Stage, kappas: tuple[int, int]
) -> None:
    leader = stage.leader(settings=EAGER)
    everything = stage.enqueue(2, priority=1) + stage.enqueue(2, priority=10)
    leader.drain_ticks()
    stage.set_queue(kappa=kappas[0])
    # Takes it over and publishes a floor by it, admits nothing.
    leader.tick()
    leader.reign.tick.publish_floor()
    stage.set_queue(kappa=kappas[1])
    successor = stage.leader(lock=False, settings=EAGER)
    everything += stage.enqueue(2, priority=1) + stage.enqueue(2, priority=10)
    successor.drain_ticks()
    check(stage.db)
    assert sorted(claim_all(stage)) == sorted(everything)


def test_an_election_finds_rows_that_a_wrong_floor_had_hidden(stage: Stage) -> None:
    leader = stage.leader(settings=EAGER)
    staged = stage.enqueue(3)
    leader.drain_ticks()
    stage.do("select setval('orchestrator.floor_1', 1000000)")
    assert claim_all(stage) == []
    stage.leader(lock=False, settings=EAGER)
    assert claim_all(stage) == staged


class Life:
    """A queue that everything happens to, in an order drawn from a seed."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self._stage = stage
        self._draw = random.Random(seed)
        self._leader = stage.leader(settings=EAGER)
        self._claims: list[Claim] = []
        self.staged: set[int] = set()

    def steps(self, count: int) -> list[Callable[[], Any]]:
        """Return `count` things to let happen, each kind at least once, in a drawn order."""
        weights: dict[Callable[[], Any], int] = {
            self._enqueue: 8,
            self._tick: 10,
            self._claim: 8,
            self._ack: 5,
            self._nack: 2,
            self._lose: 2,
            self._cancel: 1,
            self._floor: 3,
            self._kappa: 2,
            self._usurp: 1,
            self._kill: 1,
        }
        more = self._draw.choices(list(weights), list(weights.values()), k=count - len(weights))
        return self._draw.sample(drawn := [*weights, *more], len(drawn))

    def finish(self) -> None:
        """Let every task end."""
        self._claims = []
        self._stage.expire_leases()
        reap(self._stage.db)
        while not self._idle():
            self._tick()
            ack(self._stage.db, claim(self._stage.db, 100))

    def _idle(self) -> bool:
        unfinished = """
            select (select count(*) from orchestrator.staging_queue)
                 + (select count(*) from orchestrator.task_queue)"""
        return bool(self._stage.one(unfinished) == 0)

    def _enqueue(self) -> None:
        org = self._draw.choice("ab")
        priority = self._draw.choice((1, 5, 10))
        self.staged |= set(self._stage.enqueue(self._draw.randint(1, 5), org, priority=priority))

    def _tick(self) -> None:
        self._leader.tick()

    def _claim(self) -> None:
        self._claims += claim(self._stage.db, self._draw.randint(1, 8))

    def _some(self) -> list[Claim]:
        self._draw.shuffle(self._claims)
        return [self._claims.pop() for _ in range(min(len(self._claims), 4))]

    def _ack(self) -> None:
        ack(self._stage.db, self._some())

    def _nack(self) -> None:
        status = self._draw.choice((AttemptStatus.FAILED, AttemptStatus.RELEASED))
        give_back(self._stage.db, self._some(), status)

    def _lose(self) -> None:
        lost = {c.claim_id for c in self._some()}
        self._stage.expire_leases(list(lost))
        reap(self._stage.db)

    def _cancel(self) -> None:
        task_id = self._draw.choice([*self.staged, 0])
        if task_id:
            cancel(self._stage.db, task_id)

    def _floor(self) -> None:
        self._leader.reign.tick.publish_floor()

    def _kappa(self) -> None:
        self._stage.set_queue(kappa=self._draw.choice((0, 3, 20, 100)))

    def _usurp(self) -> None:
        deposed, self._leader = self._leader, self._stage.leader(lock=False, settings=EAGER)
        deposed.close()

    def _kill(self) -> None:
        if kill_between_move_and_commit(self._stage, self._leader):
            self._leader = self._stage.leader(lock=False, settings=EAGER)


@pytest.mark.parametrize("seed", range(6))
def test_after_every_step_of_a_life_all_that_is_claimable_is_seen(stage: Stage, seed: int) -> None:
    life = Life(stage, seed)
    for step in life.steps(120):
        step()
        check(stage.db)
    life.finish()
    check(stage.db)
    ended = stage.rows("select task_id from orchestrator.task_attempt where final")
    assert sorted(task_id for (task_id,) in ended) == sorted(life.staged)
