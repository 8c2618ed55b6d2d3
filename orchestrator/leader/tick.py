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

**An answer** is a tick without its first step: where nothing waits, a hint (`wakeup/hint.py`) that
one task was staged is enough to admit it. The statement finds out whether the hint is true.

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
from orchestrator.leader.hints import Hints
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
from orchestrator.wakeup.hint import Hint
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
        self.hints = Hints()
        self._feeds = Feeds(
            connection, cut, configuration, self.preemption, self.fairness, shadow, self.hints
        )
        self._planner = Planner(connection, cut)
        self.floors = Floors(term, floor_interval_s)
        self.window = Window()
        self.rota = Rota()
        # The flows of the last admission.
        self._admitted: Sequence[Wanted] = ()
        # What was ready at the last look, and what was admitted since.
        self._probe = Probe(0, None, 0, None, *configuration.in_force)
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
        return self._judged(done, started)

    def answer(self, hint: Hint) -> Ticked | None:
        """Admit the task that `hint` tells of before a feed has told of it; None where a whole tick
        is to look.

        Only where nobody else could get the slot. What ended meanwhile is not known: it counts as
        if it ran on, as it would had it ended a moment later. Raises `LeadershipLost` where this
        term is over.
        """
        started = time.perf_counter()
        if not self.hints.knows(hint):
            return None
        flow = self.hints.take(hint)
        if not self._is_at_rest(flow):
            return None
        scheduler, done = self._cut.scheduler, Ticked(staged=1)
        scheduler.arrive(*flow, 1)
        self._cut.lower_cursor(*flow, hint.neg_priority, hint.task_id)
        plan = self._planner.plan(Slots(min(1, self._slots(self._probe).main), 0))
        if [(pick.org, pick.workload) for pick in plan.picks] == [flow]:
            wanted = planned(plan, self._cut)
            line = self._line(done, plan, wanted, self._probe, started)
            moved = self._move(wanted, line, (), told=False)
            if moved is not None and moved.done:
                self._admitted_all(done, plan, wanted, moved, self._probe)
                return self._judged(done, started)
            self.rota.take_back()
        scheduler.undo(plan)
        # The feed will tell of it.
        scheduler.set_backlog(*flow, 0)
        return None

    def _is_at_rest(self, flow: tuple[str, str]) -> bool:
        """Tell whether one more task of `flow` would be all that could be admitted."""
        scheduler = self._cut.scheduler
        scheduler.wake()
        # A flow that waits has told tasks, and those come first; one that was not counted may.
        waits = scheduler.waits(*flow) or flow in self._cut.uncounted
        # A floor needs a fresh look, soon; and a shadow to be told of the whole round.
        return not (waits or scheduler.eligible or self.floors.overdue or self._shadow.running)

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
        now, ready = time.monotonic(), _ready(probe)
        claims, elapsed_s = max(0, _ready(self._probe) - ready), now - self._observed_at
        self.window.observe(claims, elapsed_s)
        if not ready and _ready(self._probe) and self._left_waiting:
            # The window ran dry while somebody waited: at the worst right after the last round.
            self.fairness.idle(self.window.parked * elapsed_s)
        self.rota.observe(ready, claims, now)
        self._probe, self._observed_at = probe, now

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
            # From what was ready before these: a floor is below all that was, and all that comes.
            floors = self._floors(probe, plan.admit_seq) if self.floors.due else []
            line = self._line(done, plan, wanted, probe, started)
            moved = self._move(wanted, line, floors, told=True)
            if moved is not None and moved.done:
                break
            self._cut.scheduler.undo(plan)
            self.rota.take_back()
            if moved is not None:
                probe = self._learn(moved, wanted, probe)
        self._admitted_all(done, plan, wanted, moved, probe)

    def _admitted_all(
        self, done: Ticked, plan: Plan, wanted: Sequence[Wanted], moved: Moved, probe: Probe
    ) -> None:
        """Take note that `plan` was committed."""
        for of in moved.found:
            flow = wanted[of.flow]
            self._cut.cursors[flow.org, flow.workload] = (of.neg_priority, of.task_id)
            self.preemption.admitted(flow.org, flow.workload, of.neg_priority)
        self._shadow.correct(plan)
        done.admitted = len(plan.picks)
        self.fairness.admit(plan, self._cut.scheduler.in_flight)
        self._shadow.admit(plan, self._offer(probe))
        done.more = done.admitted == self._batch_max
        express = sum(pick.express for pick in plan.picks)
        self._probe = probe._replace(
            ready=probe.ready + done.admitted - express,
            express_ready=probe.express_ready + express,
        )

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

    def _line(
        self, done: Ticked, plan: Plan, wanted: Sequence[Wanted], probe: Probe, started: float
    ) -> TickLine:
        """Return what to write down of a tick that admits `plan`; whom it wakes is called."""
        return TickLine(
            settled=done.settled,
            ready=probe.ready,
            window_max=self.window.size(self._cut.queue.ready_max),
            in_flight=self._cut.scheduler.in_flight,
            before_us=round((time.perf_counter() - started) * 1e6),
            summons=self._call(len(plan.picks), wanted),
        )

    def _move(
        self, wanted: Sequence[Wanted], line: TickLine, floors: Sequence[Call], *, told: bool
    ) -> Moved | None:
        """Admit what is planned and save the cut, if all that it stands on still holds."""
        version = self._configuration.in_force
        try:
            return self._transaction.move(wanted, version, line, floors, told=told)
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

    def _judged(self, done: Ticked, started: float) -> Ticked:
        """Return a tick that is over, with what it leaves for the next one."""
        queue, scheduler = self._cut.queue, self._cut.scheduler
        done.blocked = scheduler.backlog > 0 or self.preemption.open
        full = queue.capacity is not None and scheduler.in_flight >= queue.capacity
        self._left_waiting = scheduler.main.contended and not (full or queue.paused)
        done.standing = self.rota.standing
        self._admissions.inc(done.admitted)
        metrics.TICK_DURATION.observe(time.perf_counter() - started, queue.name)
        return done

    def _run(self, operation: Operation) -> Any:
        return run(self._connection, operation)


def _ready(probe: Probe) -> int:
    return probe.ready + probe.express_ready
