"""A discrete-event simulation of one queue: the scheduler of the leader over a trace.

What is modelled, as the leader and the workers do it:

- The leader's round: `settle` what ended, `refresh` what overran its charge, `wake`, `arrive`, then
  `plan` into the free slots. A round comes at every event, or every `tick_us`.
- Workers: `slots` of them, of which the reserve runs only tasks of express flows. Admitted tasks
  stand in the ready window until a slot is free; express ones are claimed first, then by dispatch
  key. With a window of 0 a task is admitted straight into a free slot: the slots are then the
  capacity that the two lanes divide.
- Inside a flow: critical tasks, then priority, then first in first out. Critical ones go first in
  their org, as the scheduler decides it.
- Preemption, where the policy says how soon who is asked yields.

What is not: the time that claiming, acking and the tick itself take, failures and retries.

Everything is an integer of microseconds, so the same trace and policy always give the same run.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from orchestrator.errors import InvalidInput
from orchestrator.fairness.costs import overrun
from orchestrator.fairness.plan import Pick, Refreshed, settled
from orchestrator.fairness.scheduler import Scheduler
from orchestrator.fairness.simulation.baselines import scheduler_of
from orchestrator.fairness.simulation.observe import Observer
from orchestrator.fairness.simulation.policy import Change, SimPolicy, Terms
from orchestrator.fairness.simulation.run import Run
from orchestrator.fairness.simulation.staging import NEVER, Staged, Staging
from orchestrator.fairness.simulation.trace import Trace
from orchestrator.fairness.simulation.workers import TASK_BITS, Workers
from orchestrator.fairness.simulation.yielding import Yielding
from orchestrator.fairness.slots import Limits, Slots, free_slots, reserve_of
from orchestrator.model import CostMode

_PROGRESS_EVERY = 100_000
_NO_SLOTS = Slots(0, 0)
# Without a wish, a run is cut into about so many windows.
_WINDOWS = 50
# How many orgs are compared over every interval; each event of one costs a look at all others.
TRACKED_MAX = 8

Progress = Callable[[int, int], None]


def simulate(
    trace: Trace,
    policy: SimPolicy,
    *,
    until_us: int | None = None,
    window_us: int | None = None,
    tracked: int = TRACKED_MAX,
    scheduler: Scheduler | None = None,
    progress: Progress | None = None,
) -> Run:
    """Run `trace` under `policy` until everything ended, nothing can happen, or `until_us`.

    `window_us` is the width of the windows of the report; without it a fiftieth of the time the
    trace needs at least. `tracked` orgs, those that ask for the most worker time, are compared over
    every interval. `scheduler` takes the place of the one that `policy.rule` names. `progress` is
    called with events done and events in all, now and then.
    """
    if until_us is not None and until_us < 1:
        raise InvalidInput(f"until_us must be at least 1, not {until_us}")
    if window_us is not None and window_us < 1:
        raise InvalidInput(f"window_us must be at least 1, not {window_us}")
    simulation = Simulation(
        trace,
        policy,
        scheduler or scheduler_of(policy.rule),
        window_us or _window_us(trace, policy.slots),
        trace.demanding(tracked),
    )
    return simulation.run(until_us, progress)


def _window_us(trace: Trace, slots: int) -> int:
    if not len(trace):
        return 1
    least = max(trace.at_us[-1], sum(trace.duration_us) // slots)
    return max(1, least // _WINDOWS)


class Simulation:
    """One run: the state of the queue, and the loop over its events."""

    def __init__(
        self,
        trace: Trace,
        policy: SimPolicy,
        scheduler: Scheduler,
        window_us: int,
        tracked: list[int],
    ) -> None:
        self.trace = trace
        self.policy = policy
        self.scheduler = scheduler
        self.mode = scheduler.cost_mode
        self.tracked = tracked
        self.observer = Observer(trace.orgs, window_us=window_us, tracked=tracked, mode=self.mode)
        for name, workload in policy.workloads.items():
            scheduler.set_workload(name, **workload._asdict())
        scheduler.set_limits(capacity=policy.capacity, headroom=policy.headroom)
        wanted = policy.express_reserve if scheduler.has_express else 0
        # With no window the workers' slots are a capacity, and each lane has its part of them.
        total = min(policy.slots, policy.capacity or policy.slots)
        if policy.window and policy.capacity is not None:
            total = policy.capacity
        kept = reserve_of(total, wanted)
        self._lanes = Slots(total - kept, kept)
        self._is_bounded = not policy.window or policy.capacity is not None
        self.workers = Workers(
            trace,
            self.observer,
            slots=policy.slots,
            reserve=reserve_of(policy.slots, wanted),
            kappa=policy.kappa,
            check_us=policy.check_us if scheduler.cost_mode is CostMode.TIME else None,
        )
        # The next one last.
        self._changes = sorted(policy.changes, key=lambda change: change.at_us)[::-1]
        self.order = array("q")
        self.busy_us = self.idle_us = 0
        self._places = {org: place for place, org in enumerate(trace.orgs)}
        self._workloads = {name: place for place, name in enumerate(trace.workloads)}
        self._terms: list[Terms | None] = [None] * len(trace.orgs)
        # What running tasks were charged, where that is more than at admission.
        self._charged_us: dict[int, int] = {}
        self.staging = Staging(trace)
        self.yielding: Yielding | None = None
        if policy.yield_us is not None and self.staging.has_critical:
            self.yielding = Yielding(trace, scheduler, self.staging, self.workers, policy.yield_us)
        # What the leader has not seen yet, besides arrivals: ends, tasks that were given back by
        # those that ended, overruns, changes.
        self._ended: list[int] = []
        self._returned: list[int] = []
        self._overran: list[int] = []
        self._changed: list[Change] = []
        self._round_at = NEVER

    def run(self, until_us: int | None, progress: Progress | None) -> Run:
        """Go from event to event until none is left."""
        now, events, total = 0, 0, 2 * len(self.trace)
        end_us = NEVER if until_us is None else until_us
        while (at := self._next_instant()) < end_us:
            if at > now:
                self._pass(now, at)
            now, before = at, events
            events += self._happen(now)
            if self._round_at == now:
                self._round_at = NEVER
                self._round(now)
            if progress and events // _PROGRESS_EVERY > before // _PROGRESS_EVERY:
                progress(events, total)
        if at < NEVER:
            self._pass(now, end_us)
            now = end_us
        self.observer.finish(now)
        return self._outcome(now)

    # Time ---------------------------------------------------------------------------------------

    def _next_instant(self) -> int:
        """Return when something happens next, `NEVER` if nothing is to come."""
        at = min(self.staging.next_at, self._round_at)
        for heap in (self.workers.ends, self.workers.overruns):
            if heap and heap[0] >> TASK_BITS < at:
                at = heap[0] >> TASK_BITS
        if self.yielding is not None:
            at = min(at, self.yielding.next_at)
        return min(at, self._changes[-1].at_us) if self._changes else at

    def _pass(self, since: int, now: int) -> None:
        """Let time pass in which nothing changes."""
        running = self.workers.running
        self.busy_us += (now - since) * running
        if running < self.policy.slots and (self.scheduler.main.eligible or self.staging.has_news):
            self.idle_us += (now - since) * self._idle()
        if now >= self.observer.until_us:
            self.observer.advance(now)

    def _idle(self) -> int:
        """Return how many slots are free that waiting ordinary work could have."""
        free = self.workers.free
        if self._is_bounded:
            free = min(free, self._lanes.main - self.scheduler.main.in_flight + len(self._ended))
        return max(0, free)

    def _happen(self, now: int) -> int:
        """Let everything happen that is due, and call the next round; return how many events."""
        workers, ended, arrived = self.workers, 0, 0
        news = self._round_at == now
        if workers.ends and workers.ends[0] >> TASK_BITS <= now:
            ends = workers.end(now)
            self._ended += ends
            ended, news = len(ends), True
        if self.yielding is not None and self._yield(self.yielding, now):
            news = True
        if self.staging.next_at <= now:
            arrived, news = self.staging.arrive(now), True
        if workers.overruns and workers.overruns[0] >> TASK_BITS <= now:
            self._overran += workers.overran(now)
            news = True
        while self._changes and self._changes[-1].at_us <= now:
            self._changed.append(self._changes.pop())
            news = True
        if news and self._round_at > now:
            tick_us = self.policy.tick_us
            self._round_at = -(-now // tick_us) * tick_us if tick_us else now
        return ended + arrived

    def _yield(self, yielding: Yielding, now: int) -> int:
        """Let those yield whose time has come; return how many."""
        for task in self._ended:
            yielding.forget(task)
        stopped = yielding.obey(now)
        self._ended += stopped
        return len(stopped)

    # The leader ---------------------------------------------------------------------------------

    def _round(self, now: int) -> None:
        """Do one round of the leader."""
        # Where nothing ended and somebody waits, there is nobody to wake and nothing to forgive.
        stirred = bool(self._ended or self._overran or self._changed)
        if self._ended:
            self._settle(now)
        if self._overran:
            self._refresh(now)
        self._spare_reserve()
        # A plan wakes too; but who arrives must find virtual time as it is now.
        if awake := self.staging.has_news or bool(self._changed or self._returned):
            if stirred or not self.scheduler.main.eligible or self.scheduler.express.in_flight:
                self.scheduler.wake()
            self._see_changes(now)
            self._see_arrivals(now)
        self._fill(now, awake=awake)
        if self.yielding is not None:
            self.yielding.look(now)

    def _settle(self, now: int) -> None:
        for task in self._ended:
            pick, charged_us = self.workers.picks.pop(task), self._charged_us.pop(task, None)
            if task in self.workers.used_us:
                used_us = self.workers.used_us.pop(task)
                self._returned.append(task)
            else:
                used_us = self.workers.work_us(task)
            self.scheduler.settle(settled(pick, used_us, charged_us=charged_us))
            self.observer.settle(self.trace.org[task], now)
        self._ended.clear()

    def _refresh(self, now: int) -> None:
        for task in self._overran:
            pick = self.workers.picks.get(task)
            if pick is None:
                continue
            charged_us = self._charged_us.get(task, pick.charged_us)
            now_us = overrun(charged_us, now - self.workers.began_us(task))
            self.scheduler.refresh(
                Refreshed(
                    pick.org,
                    pick.workload,
                    pick.reserved,
                    pick.weight,
                    pick.share,
                    charged_us,
                    now_us,
                )
            )
            self._charged_us[task] = now_us
            self.workers.await_overrun(task, now_us)
        self._overran.clear()

    def _see_changes(self, now: int) -> None:
        for change in self._changed:
            if change.org in self._places:
                place = self._places[change.org]
                self._configure(place, self.policy.terms(change.setting), now)
        self._changed.clear()

    def _see_arrivals(self, now: int) -> None:
        """Tell the scheduler of what was staged, run by run of one flow, in order."""
        trace = self.trace
        for task in self._returned:
            self.staging.put(task)
            work_us = self.workers.work_us(task)
            self._see((trace.org[task], trace.workload[task], 1, work_us, 0), now)
        self._returned.clear()
        for staged in self.staging.look():
            self._see(staged, now)

    def _see(self, staged: Staged, now: int) -> None:
        org, place, tasks, work_us, critical = staged
        name, workload = self.trace.orgs[org], self.trace.workloads[place]
        if self._terms[org] is None:
            self._configure(org, self.policy.terms_of(name), now)
        self.scheduler.arrive(name, workload, tasks)
        self.observer.arrive(org, tasks, work_us, now)
        if critical:
            known = self.scheduler.org(name).flows[workload].critical
            self.scheduler.set_critical(name, workload, known + critical)
            if self.yielding is not None:
                self.yielding.note(org)

    def _configure(self, place: int, terms: Terms, now: int) -> None:
        self._terms[place] = terms
        self.scheduler.configure(
            self.trace.orgs[place],
            weight=terms.weight,
            rank=terms.rank,
            burst_max=terms.burst_max,
            paused=terms.paused,
        )
        self.observer.configure(place, terms, now)

    def _fill(self, now: int, *, awake: bool) -> None:
        """Admit into the free slots; with a window, until it is full or no worker claims more."""
        scheduler, tick_us = self.scheduler, self.policy.tick_us
        while True:
            main, express = self._free() if scheduler.backlog else _NO_SLOTS
            if not (main or express):
                # What an empty plan would do, for a tenth of the time.
                if not awake:
                    scheduler.wake()
                scheduler.close_round()
                return
            plan = scheduler.plan(main, express)
            for admit_seq, pick in enumerate(plan.picks, plan.admit_seq + 1):
                self._admit(pick, admit_seq, now)
            if not plan.picks or not self.policy.window:
                return
            claimed = self.workers.claim(now)
            if tick_us:
                self._round_at = now + tick_us if scheduler.eligible else NEVER
                return
            if not claimed:
                return
            self._spare_reserve()
            awake = False

    def _free(self) -> Slots:
        """Return the slots that a plan may fill."""
        scheduler, policy = self.scheduler, self.policy
        if policy.window:
            limits = Limits(policy.capacity, policy.express_reserve)
            return free_slots(scheduler, limits, policy.window, self.workers.ready)
        main, express = self._lanes
        main -= scheduler.main.in_flight
        express -= scheduler.express.in_flight
        return Slots(max(0, main), max(0, express)) if main > 0 or express > 0 else _NO_SLOTS

    def _spare_reserve(self) -> None:
        """Spare `wake` a walk over all that run where the reserve is empty: no debt is in it."""
        express = self.scheduler.express
        if not express.in_flight:
            express.contended = True

    def _admit(self, pick: Pick, admit_seq: int, now: int) -> None:
        org = self._places[pick.org]
        task = self.staging.take(org, self._workloads[pick.workload])
        self.order.append(task)
        self.observer.admit(org, now, reserved=pick.reserved)
        self.workers.picks[task] = pick
        if self.policy.window:
            self.workers.queue(task, admit_seq)
        else:
            self.workers.start(task, now)

    def _outcome(self, now: int) -> Run:
        observer, orgs = self.observer, self.trace.orgs
        terms = (
            known or self.policy.terms_of(org) for org, known in zip(orgs, self._terms, strict=True)
        )
        return Run(
            trace=self.trace,
            policy=self.policy,
            until_us=now,
            start_us=self.workers.start_us,
            order=self.order,
            busy_us=self.busy_us,
            idle_us=self.idle_us,
            served_us=observer.served_us,
            fair_us=observer.fair_us,
            peak=observer.peak,
            terms=tuple(terms),
            windows=tuple(observer.windows),
            measured=self.mode,
            tracked=tuple(orgs[org] for org in self.tracked),
            lag=observer.worst_lag(now),
            yields=self.yielding.yields if self.yielding is not None else 0,
        )
