"""One tick: read the feeds, plan, move, persist.

The order is the proof, so it is kept in one place:

1. **Feeds** (`feeds.py`), outside any transaction of ours: slots that ended attempts freed, work
   that was staged.
2. Nothing eligible, or no free slot: done. A tick with nothing to change writes nothing. Now and
   then, before that, running attempts are charged for what they used (`refresh.py`).
3. **Plan** (pure; `planner.py`), under the configuration that is known, with what was ready when
   the feeds were read; nobody else adds to that in this term.
4. **Fence**: `SELECT … FOR UPDATE` of (epoch, term), a statement of its own. From here on it is one
   round trip (`transaction.py`), and what is read is younger than the fence.
5. **Floor**: published before any insert of this tick, from the smallest unclaimed key that came
   with the feeds, and from the keys that later admissions can still get. Never higher, so it never
   hides a row. Express work has a range of keys of its own, below all others, and a floor of its
   own.
6. **Admit** the heads of the planned flows and **persist** tags, counts and snapshots, write the
   tick down and wake the workers: one statement that does all of it, or nothing. Nothing where
   somebody else leads: this term is over. Nothing where the configuration has changed (whoever
   changes it takes the fence at commit, so the version that is read here is in force until this
   tick commits), or where a flow holds fewer tasks than believed: the plan is undone and made anew,
   under the new configuration, with the true count.
7. **Commit**. After it, what others believe to know of an empty queue is void (`wakeup.empty`).
   Whatever raises ends the term; the next one loads the last committed cut.
8. Where critical tasks wait for an org at `burst_max`, running ones are asked to yield, in a fenced
   transaction of its own (`preemption.py`).

Sources of the parts: see `orchestrator.fairness.scheduler`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from orchestrator.fairness import Limits, Plan, Ready, Slots, free_slots
from orchestrator.fairness.shadowing.shadow import Offer
from orchestrator.leader.admissions import planned
from orchestrator.leader.configuration import Configuration
from orchestrator.leader.cut import Cut
from orchestrator.leader.feeds import Feeds
from orchestrator.leader.fence import begin
from orchestrator.leader.floors import Floors
from orchestrator.leader.planner import Planner
from orchestrator.leader.preemption import Preemption
from orchestrator.leader.refresh import Refresher
from orchestrator.leader.rota import Rota
from orchestrator.leader.shadow import Shadowing, WatchedWindow
from orchestrator.leader.transaction import Transaction
from orchestrator.leader.window import Window
from orchestrator.store import admission
from orchestrator.store.admission import Moved, Probe, TickLine, Wanted
from orchestrator.store.leadership import Term
from orchestrator.store.sql import Call, Operation, batch, just, run
from orchestrator.telemetry import metrics
from orchestrator.wakeup.summons import summons


@dataclass(slots=True)
class Ticked:
    """What one tick did."""

    settled: int = 0
    staged: int = 0
    admitted: int = 0
    # Work waits that a freed slot would let through, or somebody was asked for one: wake the leader
    # for those too.
    blocked: bool = False
    # The batch limit, not the policy, ended the plan, or a look at what runs: tick again at once.
    more: bool = False
    # Work stands ready that not every worker was told of: look again soon.
    standing: bool = False

    @property
    def busy(self) -> bool:
        """Tell whether there was anything to do."""
        return bool(self.settled or self.staged or self.admitted)


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
        shadow: Shadowing,
        bump: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._term = term
        self._cut = cut
        self._configuration = configuration
        self._batch_max = batch_max
        self._shadow = shadow
        self._bump = bump
        self._offered = Offer(0, Ready(), 0)
        self.fairness = WatchedWindow(cut.scheduler, shadow)
        self._transaction = Transaction(connection, term, cut)
        self._refresher = Refresher(connection, term, cut, self._transaction, self.fairness)
        self.preemption = Preemption(connection, term, cut, configuration, shadow)
        self._feeds = Feeds(connection, cut, configuration, self.preemption, self.fairness, shadow)
        self._planner = Planner(connection, cut)
        self.floors = Floors(term, floor_interval_s)
        self.window = Window()
        self.rota = Rota()
        # The flows of the last admission.
        self._admitted: Sequence[Wanted] = ()
        self._ready = 0
        # Whether the last round ended with eligible work and full windows.
        self._left_waiting = False
        self._observed_at = time.monotonic()
        self._admissions = metrics.ADMISSIONS.labels(cut.queue.name)

    def tick(self) -> Ticked:
        """Do one tick; raise `LeadershipLost` where this term is over."""
        started = time.perf_counter()
        done = Ticked()
        self._shadow.begin_round()
        done.settled, done.staged, probe = self._feeds.read()
        self._observe(probe)
        if any(self._slots(probe)) or self._configuration.differs(probe):
            if self._refresher.refresh():
                self._shadow.wake()
            self._admit(done, probe, started)
        self._cut.scheduler.close_round()
        self._offered = self._offer(probe)
        self._shadow.close_round(self._offered)
        done.more |= self.preemption.step()
        if not done.admitted:
            self._call_again()
        done.standing = self.rota.standing
        self._judge(done)
        self._admissions.inc(done.admitted)
        metrics.TICK_DURATION.observe(time.perf_counter() - started, self._cut.queue.name)
        return done

    def look_beside(self) -> None:
        """Let the shadow do a round while there is nothing to do live."""
        if self._shadow.running:
            self._shadow.begin_round()
            self._shadow.wake()
            self._shadow.close_round(self._offered)

    @property
    def config_version(self) -> int:
        """Return the version of the configuration that is in force here."""
        return self._configuration.version

    def begin_term(self) -> None:
        """Find the floor anew by a full scan, under the fence; once, when a term begins.

        The configuration is read there too: whoever changes it holds the fence until its commit.
        """
        probe = begin(self._connection, self._term)
        self._configuration.reload(self._connection, probe)
        lowest, express_lowest = self._run(admission.lowest_unclaimed(self._term.queue))
        whole = probe._replace(lowest=lowest, express_lowest=express_lowest)
        self._run(batch(self._floors(whole, self._cut.scheduler.admit_seq)))
        self.preemption.load()
        self._run(just(admission.COMMIT))

    def publish_floor(self) -> None:
        """Publish the floor under the fence and nothing else; before a pause."""
        probe = begin(self._connection, self._term)
        floors = self._floors(probe, self._cut.scheduler.admit_seq)
        self._run(batch([*floors, admission.COMMIT]))

    def save(self) -> None:
        """Save what changed since the last admission, if anything did."""
        self._transaction.save_changes()

    # 1 ------------------------------------------------------------------------------------------

    def _observe(self, probe: Probe) -> None:
        now, ready = time.monotonic(), probe.ready + probe.express_ready
        elapsed_s = now - self._observed_at
        self.window.observe(max(0, self._ready - ready), elapsed_s)
        if not ready and self._ready and self._left_waiting:
            # The window ran dry while somebody waited: at the worst right after the last round.
            self.fairness.idle(self.window.parked * elapsed_s)
        self.rota.observe(ready, max(0, self._ready - ready), now)
        self._ready, self._observed_at = ready, now

    # 2 ------------------------------------------------------------------------------------------

    def _slots(self, probe: Probe) -> Slots:
        queue, scheduler = self._cut.queue, self._cut.scheduler
        if queue.paused or not scheduler.eligible:
            return Slots(0, 0)
        free = free_slots(
            scheduler,
            Limits(queue.capacity, queue.express_reserve),
            self.window.size(queue.ready_max),
            Ready(probe.ready, probe.express_ready),
        )
        main = min(free.main, self._batch_max)
        return Slots(main, min(free.express, self._batch_max - main))

    def _offer(self, probe: Probe) -> Offer:
        """Return what the shadow may give away, less what it holds already."""
        queue = self._cut.queue
        size, workers = self.window.size(queue.ready_max), self.window.parked
        ready = Ready(probe.ready, probe.express_ready)
        return Offer(size, ready, self._batch_max, workers, queue.paused)

    # 3 ------------------------------------------------------------------------------------------

    def _admit(self, done: Ticked, probe: Probe, started: float) -> None:
        """Admit what the free slots allow; each further round has learnt what was believed
        wrongly.
        """
        while True:
            if self._configuration.differs(probe):
                probe = self._reconfigure()
            plan = self._planner.plan(self._slots(probe))
            if not plan.picks:
                self._shadow.correct(plan)
                if self.floors.due:
                    self.publish_floor()
                return
            wanted = planned(plan, self._cut)
            moved = self._move(done, plan, wanted, probe, started)
            if moved is not None and moved.done:
                break
            self._cut.scheduler.undo(plan)
            self.rota.take_back()
            if moved is not None:
                probe = self._learn(moved, wanted, probe)
        for of in moved.found:
            flow = wanted[of.flow]
            self._cut.cursors[flow.org, flow.workload] = (of.neg_priority, of.task_id)
            self.preemption.admitted(flow.org, flow.workload, of.neg_priority)
        self._shadow.correct(plan)
        done.admitted = len(plan.picks)
        self.fairness.admit(plan, self._cut.scheduler.in_flight)
        self._shadow.admit(plan, self._offer(probe))
        done.more = done.admitted == self._batch_max
        self._ready = probe.ready + probe.express_ready + done.admitted

    def _reconfigure(self) -> Probe:
        """Put the configuration in force that was committed meanwhile; return what is ready."""
        probe = begin(self._connection, self._term)
        self._configuration.reload(self._connection, probe)
        self._run(just(admission.COMMIT))
        # It acts on what is staged already, in this very tick.
        self._cut.scheduler.wake()
        self.fairness.reweigh()
        return probe

    # 5 ------------------------------------------------------------------------------------------

    def _floors(self, probe: Probe, admit_seq: int) -> list[Call]:
        scheduler = self._cut.scheduler
        return self.floors.calls(
            probe, admit_seq, self._cut.row.kappa, express=scheduler.has_express
        )

    # 4 to 7 -------------------------------------------------------------------------------------

    def _move(
        self, done: Ticked, plan: Plan, wanted: Sequence[Wanted], probe: Probe, started: float
    ) -> Moved | None:
        """Admit what is planned and save the cut, if all that it stands on still holds."""
        floors = self._floors(probe, plan.admit_seq) if self.floors.due else []
        line = TickLine(
            settled=done.settled,
            ready=probe.ready,
            window_max=self.window.size(self._cut.queue.ready_max),
            in_flight=self._cut.scheduler.in_flight,
            before_us=round((time.perf_counter() - started) * 1e6),
            summons=self._call(len(plan.picks), wanted),
        )
        try:
            return self._transaction.move(wanted, self._configuration.in_force, line, floors)
        finally:
            # Also where the answer was lost: it may have committed. Never before it: a look between
            # the two would find nothing and be believed.
            self._bump()

    def _learn(self, moved: Moved, wanted: Sequence[Wanted], probe: Probe) -> Probe:
        """Take over what made a tick's statement do nothing."""
        there = Counter({of.flow: of.tasks for of in moved.found})
        for number, flow in enumerate(wanted):
            if there[number] < len(flow.bases):
                self._cut.scheduler.set_backlog(flow.org, flow.workload, there[number])
        return probe._replace(
            config_version=moved.config_version, config_deletes=moved.config_deletes
        )

    def _call(self, tasks: int, wanted: Sequence[Wanted]) -> str:
        """Return whom of the workers to wake for so many tasks more."""
        self._admitted = wanted
        return summons(self.rota.call(tasks, self._cost_us(), time.monotonic()))

    def _call_again(self) -> None:
        """Wake more workers where those that were called do not take what stands ready."""
        if not self.rota.standing:
            return
        called = self.rota.call_again(self._cost_us(), time.monotonic())
        if called is not None:
            self._run(just(admission.call_workers(self._term.queue, summons(called))))

    def _cost_us(self) -> int:
        """Return what the longest tasks of the last admission take; 0 where that is unknown."""
        measured = self._cut.scheduler.measured_us
        costs = [measured(flow.org, flow.workload) for flow in self._admitted]
        return max(costs) if costs and all(costs) else 0

    def _judge(self, done: Ticked) -> None:
        queue, scheduler = self._cut.queue, self._cut.scheduler
        done.blocked = scheduler.backlog > 0 or self.preemption.open
        full = queue.capacity is not None and scheduler.in_flight >= queue.capacity
        self._left_waiting = scheduler.main.contended and not (full or queue.paused)

    def _run(self, operation: Operation) -> Any:
        return run(self._connection, operation)
