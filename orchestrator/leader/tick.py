"""One tick: read the feeds, plan, move, persist.

The order is the proof, so it is kept in one place:

1. **Feeds**, outside any transaction of ours: slots that ended attempts freed, work that was
staged.
   They are differences of two snapshots, so nothing is missed and nothing is read twice. Because
   this session has no transaction id yet, everything it writes later lies beyond that snapshot.
2. Nothing eligible, or no free slot: done. A tick with nothing to change writes nothing.
3. **Fence**: `SELECT … FOR UPDATE` of (epoch, term), a statement of its own. No row: somebody else
   leads, and this term is over.
4. **Probe**, in a later statement and so with a snapshot younger than the fence: what is ready, the
   smallest unclaimed key, and the version of the configuration. Whoever changes configuration
   takes the fence at commit, so what is read here is in force until this tick commits.
5. **Floor**: published before any insert of this tick, from the smallest unclaimed key and from the
   keys that later admissions can still get. Never higher, so it never hides a row.
6. **Plan** (pure) and **fetch** the heads of the planned flows. Where a flow holds fewer tasks than
   believed, the plan is undone and made again with the true count.
7. **Move** the rows, **persist** tags, counts and snapshots, write the tick down, wake the workers:
   one transaction. Whatever raises ends the term; the next one loads the last committed cut.

Sources of the parts: see `orchestrator.fairness.scheduler`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from psycopg import Connection

from orchestrator.errors import LeadershipLost
from orchestrator.fairness import Plan
from orchestrator.leader.configuration import Configuration
from orchestrator.leader.cut import CURSOR_START, Cut
from orchestrator.leader.window import Window
from orchestrator.model import PRIORITY_MAX
from orchestrator.store import admission
from orchestrator.store.admission import Ended, Head, Move, Probe, Wanted
from orchestrator.store.leadership import Term
from orchestrator.store.sql import Batch, Operation, run

log = structlog.get_logger()


@dataclass(slots=True)
class Ticked:
    """What one tick did."""

    settled: int = 0
    staged: int = 0
    admitted: int = 0
    # Work waits that a freed slot would let through: wake the leader for those too.
    blocked: bool = False
    # The batch limit, not the policy, ended the plan: tick again at once.
    more: bool = False

    @property
    def busy(self) -> bool:
        """Tell whether there was anything to do."""
        return bool(self.settled or self.staged or self.admitted)


def dispatch_key(admit_seq: int, kappa: int, priority: int) -> int:
    """Return the key workers claim by: priority inside a window of `kappa`, then admission order.

    No task is overtaken by one admitted more than `9 * kappa` admissions later. The last digits
    keep keys apart that would meet otherwise.
    """
    return (admit_seq - kappa * priority) * 16 + (PRIORITY_MAX - priority)


class Tick:
    """Ticks of one term over one leadership session."""

    def __init__(
        self,
        connection: Connection[Any],
        term: Term,
        cut: Cut,
        configuration: Configuration,
        *,
        batch_max: int,
        floor_interval_s: float,
    ) -> None:
        self._connection = connection
        self._term = term
        self._cut = cut
        self._configuration = configuration
        self._batch_max = batch_max
        self._floor_interval_s = floor_interval_s
        self._floor: int | None = None
        self._floor_at = 0.0
        self.window = Window()
        self._ready = 0
        self._observed_at = time.monotonic()

    def tick(self) -> Ticked:
        """Do one tick; raise `LeadershipLost` where this term is over."""
        started = time.perf_counter()
        done = Ticked()
        probe = self._read_feeds(done)
        self._observe(probe)
        if self._slots(probe.ready) > 0 or self._configuration.differs(probe):
            self._admit(done, started)
        self._judge(done)
        return done

    @property
    def config_version(self) -> int:
        """Return the version of the configuration that is in force here."""
        return self._configuration.version

    def begin_term(self) -> None:
        """Find the floor anew by a full scan, under the fence; once, when a term begins.

        The configuration is read there too: whoever changes it holds the fence until its commit.
        """
        probe = self._begin()
        self._configuration.reload(self._connection, probe)
        lowest = self._run(admission.lowest_unclaimed(self._term.queue))
        self._set_floor(probe._replace(lowest=lowest), self._cut.scheduler.admit_seq)
        self._run(_just(admission.ROLLBACK))

    def publish_floor(self) -> None:
        """Publish the floor under the fence and nothing else; before a pause."""
        probe = self._begin()
        self._set_floor(probe, self._cut.scheduler.admit_seq)
        self._run(_just(admission.ROLLBACK))

    # 1 ------------------------------------------------------------------------------------------

    def _read_feeds(self, done: Ticked) -> Probe:
        scheduler = self._cut.scheduler
        ended, staged, probe = self._run(admission.feeds(self._term.queue, self._cut.row))
        for attempt in ended:
            self._settle(attempt)
            done.settled += attempt.slots
        if sum(work.tasks for work in staged) >= admission.FEED_MAX:
            done.staged += self._count_all()
            return probe  # type: ignore[no-any-return]
        for work in staged:
            self._configuration.introduce(work.org)
            scheduler.arrive(work.org, work.workload, work.tasks)
            self._cut.lower_cursor(work.org, work.workload, work.neg_priority, work.task_id)
            done.staged += work.tasks
        return probe  # type: ignore[no-any-return]

    def _count_all(self) -> int:
        """Learn the backlogs from the tables: more was staged than a feed may read."""
        counted = self._run(admission.count_flows(self._term.queue))
        for (org, workload), found in counted.items():
            self._configuration.introduce(org)
            self._cut.recount(org, workload, found)
        return sum(counted.values())

    def _count_on(self, flows: Iterable[tuple[str, str]]) -> bool:
        """Count the next stretch of those of `flows` that may hold more; return whether one did."""
        scheduler = self._cut.scheduler
        more = False
        for flow in self._cut.uncounted.intersection(flows):
            if scheduler.waits(*flow):
                continue
            cursor = self._cut.cursors.get(flow, CURSOR_START)
            found = self._run(admission.count_flow(self._term.queue, *flow, cursor))
            scheduler.set_backlog(*flow, found)
            if found < admission.COUNT_MAX:
                self._cut.uncounted.discard(flow)
            more = more or found > 0
        return more

    def _settle(self, ended: Ended) -> None:
        scheduler = self._cut.scheduler
        self._configuration.introduce(ended.org)
        held = scheduler.org(ended.org).in_flight
        if ended.slots > held:
            # Only hands on the tables do this. The sweep counts the rows; here, never below zero.
            log.warning("tick.repaired", org=ended.org, ended=ended.slots, in_flight=held)
        scheduler.settle(ended.org, min(ended.slots, held))

    def _observe(self, probe: Probe) -> None:
        now = time.monotonic()
        self.window.observe(max(0, self._ready - probe.ready), now - self._observed_at)
        self._ready, self._observed_at = probe.ready, now

    # 2 ------------------------------------------------------------------------------------------

    def _slots(self, ready: int) -> int:
        queue, scheduler = self._cut.queue, self._cut.scheduler
        if queue.paused or not scheduler.eligible:
            return 0
        free = self.window.size(queue.ready_max) - ready
        if queue.capacity is not None:
            free = min(free, queue.capacity - scheduler.in_flight)
        return min(free, self._batch_max)

    # 3, 4 ---------------------------------------------------------------------------------------

    def _begin(self) -> Probe:
        term = self._term
        probe = self._run(admission.fenced(term.queue, term.epoch, term.term))
        if probe is None:
            raise LeadershipLost(f"epoch {term.epoch} is over: another replica was elected")
        return probe  # type: ignore[no-any-return]

    def _admit(self, done: Ticked, started: float) -> None:
        probe = self._begin()
        if self._configuration.differs(probe):
            self._configuration.reload(self._connection, probe)
        plan, heads = self._plan(self._slots(probe.ready))
        due = time.monotonic() - self._floor_at >= self._floor_interval_s
        if due:
            self._set_floor(probe, plan.admit_seq)
        if not plan.picks:
            self._run(_just(admission.ROLLBACK))
            return
        moves = self._moves(plan, heads)
        self._count_late(heads)
        if self._persist(done, plan, moves, probe, started):
            done.admitted = len(moves)
            done.more = len(moves) == self._batch_max
            self._ready = probe.ready + len(moves)
            self._advance_cursors(heads)
            # What was not counted could not be planned: tick again at once.
            done.more = self._count_on(heads) or done.more

    # 5 ------------------------------------------------------------------------------------------

    def _set_floor(self, probe: Probe, admit_seq: int) -> None:
        # `admit_seq` is the last one committed, never one that this tick may still take back.
        coming = (admit_seq + 1 - PRIORITY_MAX * self._cut.row.kappa) * 16
        floor = coming if probe.lowest is None else min(probe.lowest, coming)
        if floor != self._floor:
            self._run(admission.set_floor(self._term.queue, floor))
            self._floor = floor
        self._floor_at = time.monotonic()

    # 6 ------------------------------------------------------------------------------------------

    def _plan(self, slots: int) -> tuple[Plan, dict[tuple[str, str], list[Head]]]:
        """Plan up to `slots` admissions for which a row was seen; each round corrects a count."""
        scheduler = self._cut.scheduler
        while True:
            plan = scheduler.plan(max(0, slots))
            wanted = Counter((pick.org, pick.workload) for pick in plan.picks)
            if not wanted:
                return plan, {}
            heads = self._fetch(wanted)
            short = {flow: heads[flow] for flow in wanted if len(heads[flow]) < wanted[flow]}
            if not short:
                return plan, heads
            scheduler.undo(plan)
            for (org, workload), found in short.items():
                scheduler.set_backlog(org, workload, len(found))

    def _fetch(self, wanted: Counter[tuple[str, str]]) -> dict[tuple[str, str], list[Head]]:
        flows = list(wanted)
        asked = [
            Wanted(*flow, self._cut.cursors.get(flow, CURSOR_START), wanted[flow]) for flow in flows
        ]
        heads: dict[tuple[str, str], list[Head]] = {flow: [] for flow in flows}
        for head in self._run(admission.fetch(self._term.queue, self._cut.row, asked)):
            heads[flows[head.flow]].append(head)
        return heads

    def _moves(self, plan: Plan, heads: dict[tuple[str, str], list[Head]]) -> list[Move]:
        kappa = self._cut.row.kappa
        supply = {flow: iter(found) for flow, found in heads.items()}
        moves = []
        for admit_seq, pick in enumerate(plan.picks, plan.admit_seq + 1):
            head = next(supply[pick.org, pick.workload])
            key = dispatch_key(admit_seq, kappa, min(PRIORITY_MAX, -head.neg_priority))
            moves.append(Move(head.place, head.task_id, key, pick.charge, pick.weight))
        return moves

    def _count_late(self, heads: dict[tuple[str, str], list[Head]]) -> None:
        """Add the tasks that were staged after the feed was read and are admitted before the next.

        No feed will tell of them any more; uncounted, each would hide another task of its flow.
        Undoing
        the plan takes this back.
        """
        for flow, found in heads.items():
            if late := sum(head.uncounted for head in found):
                self._cut.scheduler.arrive(*flow, late)

    def _advance_cursors(self, heads: dict[tuple[str, str], list[Head]]) -> None:
        for flow, found in heads.items():
            if found:
                self._cut.cursors[flow] = (found[-1].neg_priority, found[-1].task_id)

    # 7 ------------------------------------------------------------------------------------------

    def _persist(
        self, done: Ticked, plan: Plan, moves: list[Move], probe: Probe, started: float
    ) -> bool:
        """Commit the admissions; return False where a row was cancelled under our eyes."""
        cut, queue = self._cut, self._term.queue
        saving = cut.saving()
        counts = Counter((pick.org, pick.workload) for pick in plan.picks)
        logged = admission.log_tick(
            queue,
            admit_seq=cut.scheduler.admit_seq,
            epoch=self._term.epoch,
            settled=done.settled,
            admitted=len(moves),
            ready=probe.ready,
            window_max=self.window.size(cut.queue.ready_max),
            in_flight=cut.scheduler.in_flight,
            tick_us=round((time.perf_counter() - started) * 1e6),
            orgs=[org for org, _ in counts],
            workloads=[workload for _, workload in counts],
            counts=list(counts.values()),
        )
        answers = self._run(
            _all([admission.move(queue, moves), logged, admission.notify_ready(queue), *saving])
        )
        if answers[0][0][0] != len(moves):
            # Cancelled or expired between fetch and move: nothing of this tick happened.
            self._run(_just(admission.ROLLBACK))
            cut.scheduler.undo(plan)
            done.more = True
            return False
        # Before the commit: admissions whose cut was not saved would be forgotten by the next term.
        cut.saved(saving, answers[3:])
        self._run(_just(admission.COMMIT))
        cut.scheduler.dirty.clear()
        return True

    def _judge(self, done: Ticked) -> None:
        done.blocked = self._cut.scheduler.backlog > 0

    def _run(self, operation: Operation) -> Any:
        return run(self._connection, operation)


def _just(call: Any) -> Operation:
    yield call


def _all(calls: list[Any]) -> Operation:
    return (yield Batch(calls))
