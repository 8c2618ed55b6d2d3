"""What the machine of `test_lifecycle` is made of: actors, leaders, and the judging of a tick."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from hypothesis.stateful import RuleBasedStateMachine
from psycopg import Connection

from orchestrator.config import LeaderSettings
from orchestrator.errors import LeadershipLost
from orchestrator.leader.tick import Ticked
from orchestrator.model import CostMode, Place
from orchestrator.store import orgs
from orchestrator.store.sql import run
from orchestrator.wakeup.hint import Hint
from tests.stateful.actors import Actors
from tests.stateful.caller import Caller
from tests.stateful.drawn import ORGS, SHARES, TIERS, Act
from tests.stateful.ledger import Admission, Ledger, Told
from tests.stateful.reading import Reading, read
from tests.stateful.watching import Answering, Meeting, Watch
from tests.stateful.wire import Leader
from tests.stateful.world import Config, Task, World


class Machinery(RuleBasedStateMachine):
    """One queue, its world, its ledger and its leaders; no rules."""

    def __init__(self, dsn: str, connection: Connection[Any], slow: Connection[Any]) -> None:
        super().__init__()
        self.dsn = dsn
        self.connection = connection
        self.slow = slow
        self.leader: Leader | None = None
        self.standby: Leader | None = None
        self.deposed: list[Leader] = []
        self.epoch = 0
        self.bounds = ExitStack()

    def prepare(
        self, name: str, *, batch_max: int, capacity: int | None, ready_max: int, kappa: int
    ) -> None:
        """Create the queue, its world and its ledger, and elect the first leader."""
        with self.connection.transaction():
            # The exact bounds hold where every task costs the same.
            setting = orgs.set_queue(
                name,
                cost_mode=CostMode.COUNT,
                capacity=capacity,
                ready_max=ready_max,
                kappa=kappa,
                actor="o",
            )
            self.queue: int = run(self.connection, setting).id
        self.settings = LeaderSettings(
            idle_session_timeout_s=60,
            idle_in_transaction_timeout_s=60,
            batch_max=batch_max,
            floor_interval_s=0.001,
        )
        config = Config(dict(TIERS), dict(SHARES), capacity=capacity, ready_max=ready_max)
        self.world = World(config)
        self.actors = Actors(self.connection, self.queue, name, self.world)
        self.caller = Caller(self.slow, self.queue, self.world)
        self.ledger = Ledger()
        self.ledger.kappa = kappa
        self._elect(self._stand())

    def _do(self, act: Act) -> None:
        verb, args = act
        getattr(self.actors, verb)(**args)

    def _sql(self, statement: str) -> None:
        self.connection.execute(statement.encode(), [self.queue])

    # Leaders ------------------------------------------------------------------------------------

    def _watch(self, verb: str) -> Watch:
        if verb == "step":
            return Watch(self.world, self._absorb_keeping)
        return Watch(self.world)

    def _stand(self) -> Leader:
        return Leader(self.dsn, self.queue, self.settings)

    def _candidate(self) -> Leader:
        candidate, self.standby = self.standby or self._stand(), None
        return candidate

    def _leading(self) -> Leader:
        assert self.leader is not None
        return self.leader

    def _elect(self, candidate: Leader, meeting: Meeting | None = None) -> None:
        if meeting is None:
            candidate.open()
        else:
            with candidate.disturbed(before=meeting.before):
                candidate.open()
        self._reign(candidate)

    def _reign(self, candidate: Leader) -> None:
        self._depose()
        self.epoch += 1
        self.leader = candidate
        self.ledger.take_over()

    def _depose(self) -> None:
        if self.leader is not None:
            self.deposed.append(self.leader)
            self.leader = None

    def _bury(self, leader: Leader) -> None:
        """Close a session, and wait until the server has let go of what it held."""
        leader.close()
        if leader in self.deposed:
            self.deposed.remove(leader)
        alive = "select from pg_stat_activity where pid = %s"
        deadline = time.monotonic() + 10
        while self.connection.execute(alive, [leader.pid]).fetchone():
            assert time.monotonic() < deadline, "the session of a closed connection lives on"

    def _tick_in_vain(self, leader: Leader, verb: str = "tick") -> None:
        try:
            done: Ticked = getattr(leader, verb)()
        except LeadershipLost:
            self._bury(leader)
        else:
            assert done.admitted == 0

    # Judging ------------------------------------------------------------------------------------

    def _lead(self, verb: str) -> Ticked:
        """Tick, or step, undisturbed; check that no slot stays free while somebody could use it."""
        leader = self._leading()
        overdue = self.world.overdue()
        watch = self._watch(verb)
        with leader.watched(watch.before):
            done: Ticked = getattr(leader, verb)()
        if verb == "step":
            self._absorb_keeping()
            assert not any(task.due for task in self.world.of(Place.SCHEDULED))
            assert not any(self.world.over().values())
            assert not [task for task in self.world.overdue() if task in overdue]
        told = watch.told or self._told()
        ready = len(self.world.of(Place.READY))
        held = told.held.total()
        admitted = self._absorb(told)
        assert done.admitted == admitted
        if watch.looked and not admitted:
            self.ledger.look(told, contended=leader.scheduler.main.contended)
        slots = self._slots(ready, held)
        # A count that stopped at its bound ends a plan early; then the leader ticks again at once.
        assert admitted == slots or (
            admitted < slots and (done.more or not self.ledger.runnable(told))
        )
        self._check_memory()
        return done

    def _answer(self, task: Task, act: Act | None = None, at: int = 0) -> None:
        """Hint that `task` was staged, true or not, while somebody else acts."""
        leader = self._leading()
        tick, scheduler = leader.reign.tick, leader.scheduler
        [number] = self.connection.execute(
            "select hashtextextended(%s, hashtextextended(%s, 0))",
            [task.spec.workload, task.spec.org],
        ).fetchone() or [0]
        hint = Hint(number, -task.spec.priority, task.id)
        held = Counter({org: state.in_flight for org, state in scheduler.orgs.items()})
        # What ended meanwhile it believes to run, never the reverse.
        assert held >= self.world.held()
        flow = (task.spec.org, task.spec.workload)
        watch = Answering(self.world, self._do, act, at, held=held, flow=flow)
        looks = tick.hints.knows(hint)
        with (
            patch.object(tick.floors, "interval_s", 3600.0),
            leader.disturbed(before=watch.before) if act else leader.watched(watch.before),
        ):
            done = tick.answer(hint)
        if done is None:
            terms = {org: self.world.config.terms(org) for org in ORGS}
            if looks:
                told = Told(held, {}, terms, dict(self.world.config.shares))
                self.ledger.look(told, contended=scheduler.main.contended)
        else:
            assert done.admitted == 1
        assert self._absorb(watch.told) == (done is not None)
        watch.close()

    def _slots(self, ready: int, held: int) -> int:
        config = self.world.config
        free = self._leading().reign.tick.window.size(config.ready_max) - ready
        if config.capacity is not None:
            free = min(free, config.capacity - held)
        return 0 if config.paused else max(0, min(free, self.settings.batch_max))

    def _told(self) -> Told:
        return self.world.told(ORGS)

    def _absorb(self, told: Told | None) -> int:
        """Judge what a tick admitted, if it committed, and put it into the world."""
        reading = read(self.connection, self.queue)
        admitted = self._admissions(reading)
        if not admitted:
            return 0
        assert told is not None, "admitted without a look"
        self._check_sequence([one.seq for one in admitted], reading)
        self.ledger.begin(told)
        for one in admitted:
            self.ledger.admit(one, told)
            self.world.admit(one.rank[1], one.key, one.seq, reading.kappa)
        self.ledger.commit(told, contended=reading.contended)
        self.ledger.admit_seq, self.ledger.kappa = reading.admit_seq, reading.kappa
        self.ledger.agree(reading)
        assert {org: row[2] for org, row in reading.orgs.items() if row[2]} == +told.held
        self._check_caps({one.org for one in admitted})
        assert reading.ticked_epoch == reading.epoch
        return len(admitted)

    def _admissions(self, reading: Reading) -> list[Admission]:
        """Return what is in the queue and was not yet, in the order of admission."""
        held = {task.id for task in self.world.of(Place.READY, Place.CLAIMED)}
        found = []
        for task_id, (key, org, workload, priority, *_) in reading.queued.items():
            if task_id not in held:
                assert priority == 10 - key % 16
                seq = key // 16 + reading.kappa * priority
                found.append(Admission(seq, key, org, workload, (-priority, task_id)))
        return sorted(found)

    def _check_sequence(self, seqs: list[int], reading: Reading) -> None:
        """Check that numbers follow one another, and jump only where kappa was raised."""
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
        assert reading.admit_seq == seqs[-1]
        if reading.kappa == self.ledger.kappa:
            assert (seqs[0] - self.ledger.admit_seq - 1) % 10 == 0

    def _check_caps(self, served: set[str]) -> None:
        """Check every cap against the rows themselves."""
        held, config = self.world.held(), self.world.config
        for org in served:
            burst_max = config.terms(org).burst_max
            assert burst_max is None or held[org] <= burst_max, f"{org} is over its cap"
        assert config.capacity is None or held.total() <= config.capacity
        assert config.ready_max is None or len(self.world.of(Place.READY)) <= config.ready_max

    def _absorb_keeping(self) -> None:
        """Put what the keeper did into the world, each of its statements all or not at all."""
        reading, world = read(self.connection, self.queue), self.world
        due = [task for task in world.of(Place.SCHEDULED) if task.due]
        if any(task.id not in reading.scheduled for task in due):
            world.promote()
        for claim, tasks in world.over().items():
            if claim not in reading.leases or any(task.id not in reading.queued for task in tasks):
                world.reap()
                break
        places = {Place.STAGED: reading.staged, Place.SCHEDULED: reading.scheduled}
        for place in (Place.READY, Place.STAGED, Place.SCHEDULED):
            late = [task for task in world.of(place) if task.overdue]
            if any(task.id not in places.get(place, reading.queued) for task in late):
                for task in late:
                    world.end(task, "expired")

    def _check_memory(self) -> None:
        """Check what the leader believes after its feeds against the rows."""
        leader = self._leading()
        scheduler = leader.scheduler
        held = {name: org.in_flight for name, org in scheduler.orgs.items() if org.in_flight}
        assert held == self.world.held()
        assert scheduler.in_flight == sum(held.values())
        for (org, workload), tasks in self.world.waiting().items():
            believed = scheduler.orgs[org].flows[workload].backlog
            # A long backlog is counted in stretches, but never believed to be none.
            least = 1 if (org, workload) in leader.reign.cut.uncounted else len(tasks)
            assert believed >= least, f"{org}/{workload}: {believed} of {len(tasks)} are known"
