"""One queue, driven at random through everything that can happen to it, on real PostgreSQL.

After every rule the tables are compared, row by row, with a model in a dict (`world`), and each
admission is judged by a ledger that never crashes (`ledger`).
"""

from __future__ import annotations

import itertools
import sys
from contextlib import suppress
from functools import partial
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg import Connection

from orchestrator.errors import DatabaseUnavailable, LeadershipLost
from orchestrator.fairness import TAG_LIMIT
from orchestrator.model import AttemptStatus, Place
from orchestrator.store import admission, cut
from orchestrator.store import orgs as configuration
from orchestrator.store.sql import run
from tests.stateful.actors import Order
from tests.stateful.drawn import (
    CONFIGURING,
    SHARES,
    TIERS,
    Act,
    acts,
    claims,
    meanwhile,
    orders,
    single,
)
from tests.stateful.machinery import Machinery
from tests.stateful.profiles import PROFILE, TIMEOUT_S
from tests.stateful.reading import read, versions
from tests.stateful.watching import LOAD, Meeting, cutting
from tests.stateful.world import Task
from tests.support.stepping import connect
from tests.unit.histories import snapshot

_names = itertools.count(1)


class Lifecycle(Machinery):
    """One queue and everybody who works on it."""

    @initialize(
        batch_max=st.sampled_from((4, 2, 8, 1)),
        capacity=st.none() | st.integers(1, 8),
        ready_max=st.integers(1, 8),
        kappa=st.integers(0, 5),
        counted=st.sampled_from((1, 0, None)),
    )
    def set_up(
        self,
        batch_max: int,
        capacity: int | None,
        ready_max: int,
        kappa: int,
        counted: int | None,
    ) -> None:
        _reset(self.connection)
        if counted is not None:  # bounds that these small backlogs can meet
            self.bounds.enter_context(patch.object(admission, "FEED_MAX", 4))
            self.bounds.enter_context(patch.object(cut, "COUNT_MAX", batch_max + counted))
        self.prepare(
            f"lifecycle {next(_names)}",
            batch_max=batch_max,
            capacity=capacity,
            ready_max=ready_max,
            kappa=kappa,
        )

    # Everybody but the leader -------------------------------------------------------------------

    @rule(act=acts("enqueue"))
    def produce(self, act: Act) -> None:
        self._do(act)

    @rule(act=acts("enqueue"))
    def produce_more(self, act: Act) -> None:
        self._do(act)

    @rule(act=acts("claim"))
    def claim(self, act: Act) -> None:
        self._do(act)

    @rule(act=acts("finish"))
    def finish(self, act: Act) -> None:
        self._do(act)

    @rule(act=acts("give_back"))
    def give_back(self, act: Act) -> None:
        self._do(act)

    @rule(act=acts("extend", "end_lease", "reap"))
    def let_leases_run(self, act: Act) -> None:
        self._do(act)

    @rule(act=acts("pass_deadline", "make_due"))
    def let_time_pass(self, act: Act) -> None:
        self._do(act)

    @rule(act=acts("cancel", "retry", "look", "cancel"))
    def manage(self, act: Act) -> None:
        self._do(act)

    @rule(act=acts(*CONFIGURING))
    def configure(self, act: Act) -> None:
        self._do(act)

    @precondition(lambda self: not self.caller.busy)
    @rule(orders=orders)
    def enqueue_and_stay(self, orders: list[Order]) -> None:
        self.caller.enqueue(orders)

    @precondition(lambda self: not self.caller.busy)
    @rule(which=claims)
    def ack_and_stay(self, which: list[int]) -> None:
        self.caller.ack(self.actors.choose(which))

    @precondition(lambda self: self.caller.busy)
    @rule(commit=st.booleans())
    def end_transaction(self, commit: bool) -> None:
        self.caller.end(commit=commit)

    # The leader ---------------------------------------------------------------------------------

    @precondition(lambda self: self.leader)
    @rule(rounds=st.integers(1, 3), limit=st.integers(1, 6))
    def work_off(self, rounds: int, limit: int) -> None:
        """Leader and worker take turns: what is admitted is claimed and done."""
        for _ in range(rounds):
            self._lead("step")
            self.actors.claim(limit)
            self.actors.finish(range(limit), AttemptStatus.SUCCEEDED, closing=True)

    @precondition(lambda self: self.leader)
    @rule()
    def tick(self) -> None:
        self._lead("tick")

    @precondition(lambda self: self.leader)
    @rule()
    def step(self) -> None:
        self._lead("step")

    @precondition(lambda self: self.leader)
    @rule(order=single, first=meanwhile)
    def call(self, order: Order, first: Act) -> None:
        """A task of a known flow comes while little waits, and the leader is told of it."""
        self._come_to_rest(order)
        self._do(first)
        self.actors.enqueue([order])
        self._answer(self._newest(0))

    @precondition(lambda self: self.leader)
    @rule(order=single, at=st.integers(0, 6), act=meanwhile)
    def call_while_others_act(self, order: Order, at: int, act: Act) -> None:
        self._come_to_rest(order)
        self.actors.enqueue([order])
        self._answer(self._newest(0), act, at)

    @precondition(lambda self: self.leader and self.world.tasks)
    @rule(which=st.integers(0, 4))
    def hint(self, which: int) -> None:
        """Whoever may connect may say that any task was just staged."""
        self._answer(self._newest(which))

    @precondition(lambda self: self.leader)
    @rule(at=st.integers(0, 16), act=meanwhile)
    def tick_while_others_act(self, at: int, act: Act) -> None:
        leader = self._leading()
        meeting = Meeting(self.world, self._do, act, at)
        with leader.disturbed(before=meeting.before):
            leader.tick()
        self._absorb(meeting.told)
        meeting.close()

    @precondition(lambda self: self.leader)
    @rule(at=st.integers(0, 24), sent=st.booleans(), verb=st.sampled_from(("tick", "step")))
    def crash(self, at: int, sent: bool, verb: str) -> None:
        """Cut the session before or after the n-th statement: all of a tick commits, or none."""
        leader = self._leading()
        watch = self._watch(verb)
        with leader.disturbed(**cutting(leader, at, sent=sent, also=watch.before)):
            try:
                getattr(leader, verb)()
            except (DatabaseUnavailable, psycopg.OperationalError):
                self._bury(leader)
                self.leader = None
        if verb == "step":
            self._absorb_keeping()
        self._absorb(watch.told)

    @precondition(lambda self: self.leader)
    @rule()
    def empty_tick(self) -> None:
        """A tick with nothing to do changes nothing, not even a row version."""
        self._lead("tick")
        done = self._lead("tick")
        if done.busy or done.more:
            return
        before, memory = versions(self.connection, self.queue), snapshot(self._leading().scheduler)
        self._lead("tick")
        assert versions(self.connection, self.queue) == before
        assert snapshot(self._leading().scheduler) == memory

    @precondition(lambda self: self.leader)
    @rule()
    def sweep(self) -> None:
        """The safety net finds nothing to repair."""
        self._lead("tick")
        keeper = self._leading().reign.keeper
        assert [*keeper.sweep(), *keeper.sweep()] == []

    # Elections ----------------------------------------------------------------------------------

    @precondition(lambda self: not self.standby)
    @rule()
    def stand_by(self) -> None:
        self.standby = self._stand()

    @rule()
    def take_over(self) -> None:
        self._elect(self._candidate())

    @rule(act=acts("set_queue", "pause_queue", "set_org", "resume_org"))
    def take_over_after_a_change(self, act: Act) -> None:
        """What a replica read while it stood by is not what it leads by."""
        candidate = self._candidate()
        self._do(act)
        self._elect(candidate)
        self._lead("step")

    @rule(at=st.integers(0, 24), act=meanwhile)
    def take_over_while_others_act(self, at: int, act: Act) -> None:
        meeting = Meeting(self.world, self._do, act, at, since=LOAD)
        self._elect(self._candidate(), meeting)
        meeting.close()

    @rule(at=st.integers(0, 24), sent=st.booleans())
    def crash_while_taking_over(self, at: int, sent: bool) -> None:
        candidate = self._candidate()
        with candidate.disturbed(**cutting(candidate, at, sent=sent)):
            try:
                candidate.open()
            except (DatabaseUnavailable, psycopg.OperationalError):
                self._bury(candidate)
                if read(self.connection, self.queue).epoch > self.epoch:
                    self._depose()
                    self.epoch += 1
                return
        self._reign(candidate)

    @precondition(lambda self: self.leader)
    # The fence is the fifth statement.
    @rule(at=st.integers(0, 4))
    def take_over_inside_a_tick(self, at: int) -> None:
        """Whoever is elected before the fence is taken, the tick under way admits nothing."""
        leader, epoch = self._leading(), self.epoch
        moment = itertools.count()

        def before(statement: bytes) -> None:
            del statement
            if next(moment) == at:
                self._elect(self._candidate())

        with leader.disturbed(before=before):
            self._tick_in_vain(leader)
        if self.epoch == epoch:  # it had nothing to do, and never came to the fence
            self._elect(self._candidate())

    @precondition(lambda self: self.deposed)
    @rule(which=st.integers(0, 3), verb=st.sampled_from(("tick", "step")))
    def deposed_leader_goes_on(self, which: int, verb: str) -> None:
        """A deposed leader may keep house, and admits nothing."""
        self._tick_in_vain(self.deposed[which % len(self.deposed)], verb)
        if verb == "step":
            self._absorb_keeping()

    # Operations that go below the verbs ---------------------------------------------------------

    @rule()
    def rebuild(self) -> None:
        """The tables were restored on another cluster: the cut is derived from them anew."""
        self._sql("update orchestrator.queue_state set system_identifier = 1 where queue = %s")
        self.ledger.restart()
        self._elect(self._candidate())
        self._check_memory()

    @rule()
    def renormalise(self) -> None:
        """A virtual time near its limit is taken off every tag, and no decision differs."""
        for table, column in (("queue_state", "virtual_time"), ("org_state", "tag")):
            self._sql(
                f"update orchestrator.{table} set {column} = {column} + {TAG_LIMIT + 1} "
                "where queue = %s"
            )
        self.ledger.shift(TAG_LIMIT + 1)
        self.ledger.renormalise()
        self._elect(self._candidate())

    @precondition(lambda self: self.leader)
    @rule(act=acts("enqueue"))
    def move_row(self, act: Act) -> None:
        """The row of the queue lies elsewhere (VACUUM FULL): a tick finds out before it commits."""
        self._sql("update orchestrator.queue_state set queue = queue where queue = %s")
        self._do(act)
        leader, watch = self._leading(), self._watch("tick")
        with leader.watched(watch.before), suppress(LeadershipLost):
            leader.tick()
        self._absorb(watch.told)
        self._bury(leader)
        self.leader = None

    def _come_to_rest(self, order: Order) -> None:
        """Have the flow of `order` known to the leader, and work most of what waits off."""
        self.actors.enqueue([order])
        self.work_off(3, 12)

    def _newest(self, which: int) -> Task:
        tasks = list(self.world.tasks.values())[::-1]
        return tasks[min(which, len(tasks) - 1)]

    # What holds after every rule ----------------------------------------------------------------

    @invariant()
    def tables_agree(self) -> None:
        reading = read(self.connection, self.queue)
        self.world.check(reading)
        assert reading.epoch == self.epoch
        assert reading.admit_seq == self.ledger.admit_seq
        unclaimed = [row[0] for row in reading.queued.values() if row[-1] is None]
        if unclaimed and reading.floor is not None:
            assert reading.floor <= min(unclaimed), "the floor hides a row"

    def teardown(self) -> None:
        failed = sys.exception() is not None
        try:
            self.caller.end(commit=not failed)
            if not failed:
                self._drain()
        finally:
            for leader in (self.leader, self.standby, *self.deposed):
                if leader is not None:
                    self._bury(leader)
            self.bounds.close()

    def _drain(self) -> None:
        """With operators and producers quiet, everything that is staged gets done."""
        self.actors.forget_orgs()
        self.actors.pause_queue(paused=False)
        if self.leader is None:
            self._elect(self._candidate())
        while self.world.of(Place.STAGED, Place.READY):
            before = len(self.world.of(Place.ENDED))
            for _ in range(3):
                self._lead("step")
            self.actors.claim(100)
            self.actors.finish(
                range(len(self.actors.claims)), AttemptStatus.SUCCEEDED, closing=True
            )
            self.tables_agree()
            assert len(self.world.of(Place.ENDED)) > before, "work waits, and nobody sees it"


def _reset(connection: Connection[Any]) -> None:
    """Put the configuration that all queues share back to what the machine starts from."""
    with connection.transaction():
        connection.execute("delete from orchestrator.org_config")
        for tier, (weight, burst_max) in TIERS.items():
            run(
                connection,
                configuration.set_tier(tier, weight=weight, burst_max=burst_max, actor="o"),
            )
        for workload, share in SHARES.items():
            run(connection, configuration.set_workload(workload, share=share, actor="o"))


@pytest.mark.timeout(TIMEOUT_S)
def test_a_queue_keeps_its_promises_through_any_history(dsn: str) -> None:
    with connect(dsn) as connection, connect(dsn) as slow:
        machine: Any = partial(Lifecycle, dsn, connection, slow)
        run_state_machine_as_test(machine, settings=PROFILE)
