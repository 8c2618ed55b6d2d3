"""A shadow: a candidate policy beside the live one, on the same feed, that changes nothing.

It starts as a copy of the live scheduler's state and hears what that hears: arrivals, what of them
is critical, corrections of backlogs, ended attempts, overruns, configuration. When the live policy
has admitted, it decides the same round with its own tags, weights and limits. What it admits never
runs, so what becomes of it is modelled:

- A task that both admit in one round is a *twin*. It ends when the live attempt ends, with the true
  cost. So a candidate that decides as the live policy does stays equal to it bit for bit, however
  long tasks take.
- A task that only the shadow admits is *its own*. It takes what its flow is expected to take. The
  worker time for it is what the live policy spends on tasks that only that has admitted, when those
  end; workers that the live policy leaves idle serve the rest, by the clock. The tasks of its own
  share that time equally. So the shadow has as much worker time as the live policy, no more.
- Its slots are the live ones, and those that it holds fewer of: a slot that the candidate leaves
  empty can be given away later.

What this leaves out is in the guide, "Try a policy beside the live one". Which attempts of a flow
ended is not told by the feed: the oldest are taken to have. Cost: O(log orgs) an admission, as of
the live policy, and O(changed flows) a round.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.fairness.plan import Pick, Plan, Refreshed, Settled
from orchestrator.fairness.roster import WorkloadClass
from orchestrator.fairness.scheduler import Scheduler
from orchestrator.fairness.shadowing.comparison import Comparison, ShadowReport
from orchestrator.fairness.shadowing.twins import InFlight, Key, Own, Pair, corrected, key_of
from orchestrator.fairness.signal import FairnessWindow
from orchestrator.fairness.simulation.policy import Terms
from orchestrator.fairness.slots import Limits, Ready, Slots, free_slots
from orchestrator.fairness.state import FlowState, Lane, OrgState
from orchestrator.fairness.strict import StrictScheduler
from orchestrator.fairness.weighted import WeightedScheduler
from orchestrator.model import CostMode, FairnessReport, Policy


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the candidate says of the queue as a whole, the live configuration included."""

    policy: Policy = Policy.WEIGHTED
    cost_mode: CostMode = CostMode.TIME
    limits: Limits = field(default_factory=Limits)
    headroom: float | None = None
    workloads: Mapping[str, WorkloadClass] = field(default_factory=dict)


class Offer(NamedTuple):
    """What there was to give away in a live round: the ready window and what is in it.

    `workers` is how many tasks the workers run at once; 0 where they do not say.
    """

    window: int
    ready: Ready
    batch_max: int
    workers: int = 0
    paused: bool = False


class Shadow:
    """The candidate's scheduler beside a live one, and the comparison of both.

    `live` is only ever read. `now_s` is a clock that never goes back, of the caller's.
    """

    def __init__(
        self,
        live: Scheduler,
        candidate: Candidate,
        terms: Iterable[tuple[str, Terms]],
        now_s: float,
    ) -> None:
        self.candidate = candidate
        self.scheduler = _copy(live, candidate)
        self.comparison = Comparison(now_s)
        self._tiers: dict[str, str] = {}
        self._now_s = now_s
        self._in_flight = InFlight(live.orgs.values())
        self._own = (Own(), Own())
        # What part of the time of live attempts the shadow's own can use, by lane: fewer tasks
        # cannot use that of more slots.
        self._part = [0.0, 0.0]
        # Of the last live round: what was ready, and how many workers are idle, if they say.
        self._ready = Ready()
        self._idle: int | None = None
        # The live backlogs as far as they are known here.
        self._seen = {
            (state.org, flow.workload): flow.backlog
            for state in live.orgs.values()
            for flow in state.flows.values()
        }
        # Whether the live policy has made a plan in this round, be it empty.
        self._planned = False
        self._window = FairnessWindow(self.scheduler)
        self.configure(candidate, terms)

    # Configuration ------------------------------------------------------------------------------

    def configure(self, candidate: Candidate, terms: Iterable[tuple[str, Terms]]) -> None:
        """Put what is decided of the queue and of its orgs in force; the policy stays."""
        self.candidate = candidate
        scheduler = self.scheduler
        scheduler.cost_mode = candidate.cost_mode
        scheduler.set_limits(capacity=candidate.limits.capacity, headroom=candidate.headroom)
        for name, workload in candidate.workloads.items():
            scheduler.set_workload(name, **workload._asdict())
        for org, decided in terms:
            self.introduce(org, decided)
        scheduler.wake()
        self._window.reweigh()

    def introduce(self, org: str, terms: Terms) -> None:
        """Put what is decided of one org in force."""
        self._tiers[org] = terms.tier
        state = self.scheduler.orgs.get(org)
        decided = (terms.weight, terms.rank, terms.burst_max, terms.paused)
        if state and decided == (state.weight, state.rank, state.burst_max, state.paused):
            return
        self.scheduler.configure(
            org,
            weight=terms.weight,
            rank=terms.rank,
            burst_max=terms.burst_max,
            paused=terms.paused,
        )

    # The feed -----------------------------------------------------------------------------------

    def arrive(self, org: str, workload: str, tasks: int) -> None:
        """Note tasks that were staged."""
        self._seen[org, workload] = self._seen.get((org, workload), 0) + tasks
        self.scheduler.arrive(org, workload, tasks)

    def expect_critical(self, org: str, workload: str, more: int) -> None:
        """Note that so many more (fewer, below zero) of the tasks of a flow are critical than were
        known, whichever of them the candidate has admitted.
        """
        mine = self.scheduler.org(org).flows.get(workload)
        known = mine.critical if mine else 0
        self.scheduler.set_critical(org, workload, max(0, known + more))

    def settle(self, ended: Settled, largest_us: int) -> None:
        """Note live attempts that ended: their twins end too, and the others' time is spent."""
        lane, state = Lane(ended.reserved), self.scheduler.org(ended.org)
        pairs = self._in_flight.end(ended, state.flows)
        twins = [pair for pair in pairs if pair is None or pair.shadow is not None]
        # All that ended is learnt from, whoever admitted it.
        mine = ended._replace(slots=min(len(twins), state.seats[lane].in_flight))
        if len(twins) < len(pairs) or not all(pair is None or pair.equal for pair in twins):
            tag_delta, flow_delta = corrected(twins, ended)
            mine = mine._replace(tag_delta=tag_delta, flow_delta=flow_delta)
        self.scheduler.settle(mine)
        self._window.settle(mine, largest_us, self.scheduler.cost_mode)
        if freed := len(pairs) - len(twins):
            self._serve(lane, ended.cost_us * freed / len(pairs) * self._part[lane])

    def refresh(self, running: Refreshed) -> None:
        """Note a live attempt that outgrew its charge; its twin did too."""
        pair = self._in_flight.oldest(running.org, running.workload, running.reserved)
        if pair is not None and pair.shadow is None:
            # Learnt from, charged to nobody.
            running = running._replace(charged_us=running.now_us)
        elif pair is not None and pair.shadow is not None and not pair.equal:
            running = running._replace(
                weight=max(1, running.weight * pair.shadow.weight // pair.live.weight),
                share=max(1, running.share * pair.shadow.share // pair.live.share),
            )
        self.scheduler.refresh(running)
        self._window.refresh(running)

    def wake(self) -> None:
        """Let those run whom the settlements allow to, as the live scheduler does now."""
        self.scheduler.wake()

    def correct(self, live: Scheduler, plan: Plan) -> None:
        """Take over what the live policy learnt of its backlogs up to `plan`, which stands.

        Looks at the orgs that the live policy has to save, so before they are saved.
        """
        self._planned = True
        planned = Counter((pick.org, pick.workload) for pick in plan.picks)
        for org in live.dirty:
            for flow in live.orgs[org].flows.values():
                self._correct(org, flow, planned[org, flow.workload])

    # Rounds -------------------------------------------------------------------------------------

    def begin_round(self, now_s: float) -> None:
        """Let the time since the last round pass; before anything is told of this one."""
        elapsed_us, self._now_s = (now_s - self._now_s) * 1e6, now_s
        for lane, count in zip(Lane, self._served(), strict=True):
            if count:
                self._serve(lane, count * elapsed_us)
        alone = self._in_flight.alone
        self._part = [
            min(1.0, len(own) / max(1, n)) for own, n in zip(self._own, alone, strict=True)
        ]

    def admit(self, live: Scheduler, plan: Plan, offer: Offer) -> None:
        """Decide the round in which the live policy has just admitted `plan`."""
        lanes = Counter(pick.reserved for pick in plan.picks)
        held = [line.in_flight - lanes[line.lane > 0] for line in live.lines]
        self._note(live, offer)
        picks = self._plan(self._slots(held, offer))
        self.comparison.note(map(self._taken, plan.picks), map(self._taken, picks), self._now_s)
        mine: dict[Key, deque[Pick]] = {}
        for pick in picks:
            mine.setdefault(key_of(pick), deque()).append(pick)
        for pick in plan.picks:
            same = mine.get(key_of(pick))
            self._in_flight.add(Pair(pick, same.popleft() if same else None))
            self._seen[pick.org, pick.workload] -= 1
        for rest in mine.values():
            self._keep(rest)
        for org, workload in {(pick.org, pick.workload) for pick in plan.picks}:
            # Staged after the feed was read, and admitted: told by no feed.
            self._correct(org, live.orgs[org].flows[workload], 0)

    def look(self, live: Scheduler, offer: Offer) -> None:
        """Admit what the candidate can in a round in which the live policy admits nothing."""
        self._note(live, offer)
        if self._planned or not self.scheduler.eligible:
            return
        slots = self._slots([line.in_flight for line in live.lines], offer)
        if any(slots) and (picks := self._plan(slots)):
            self.comparison.note((), map(self._taken, picks), self._now_s)
            self._keep(picks)

    def close_round(self) -> None:
        """End a round, planned or not, as the live scheduler does."""
        self.scheduler.close_round()
        # Nothing of it is ever saved.
        self.scheduler.dirty.clear()
        self._planned = False
        for own in self._own:
            own.forfeit()

    def report(self, live: FairnessReport | None, window_s: float, now_s: float) -> ShadowReport:
        """Return the comparison so far; `live` is the live policy's window that ends now."""
        mine = self._window.close(self.scheduler, window_s)
        if live is not None and mine is not None:
            self.comparison.compare_windows(live.jain, mine.jain)
        return self.comparison.report(self._tiers, now_s)

    # Mechanics ----------------------------------------------------------------------------------

    def _served(self) -> list[int]:
        """Return how many of the tasks that the shadow runs more of idle workers serve, by lane.

        Where workers do not say how many they are: those that find no task ready.
        """
        served, idle = [], self._idle
        for own, alone, ready in zip(self._own, self._in_flight.alone, self._ready, strict=True):
            more = max(0, len(own) - alone)
            served.append(max(0, more - ready) if idle is None else min(more, idle))
            idle = None if idle is None else idle - served[-1]
        return served

    def _note(self, live: Scheduler, offer: Offer) -> None:
        self._ready = offer.ready
        self._idle = max(0, offer.workers - live.in_flight) if offer.workers else None

    def _slots(self, held: list[int], offer: Offer) -> Slots:
        """Return the live slots, less those that the shadow holds more of than is `held` live."""
        if offer.paused:
            return Slots(0, 0)
        # What an idle worker has taken is not ready any more.
        claimed = [0, 0] if self._idle is None else self._served()
        main, express = (
            ready + line.in_flight - count - taken
            for ready, line, count, taken in zip(
                offer.ready, self.scheduler.lines, held, claimed, strict=True
            )
        )
        ready = Ready(main, express)
        free = free_slots(self.scheduler, self.candidate.limits, offer.window, ready)
        main = min(free.main, offer.batch_max)
        return Slots(main, min(free.express, offer.batch_max - main))

    def _plan(self, slots: Slots) -> list[Pick]:
        plan = self.scheduler.plan(*slots)
        self._window.admit(plan, self.scheduler.in_flight)
        return plan.picks

    def _keep(self, picks: Iterable[Pick]) -> None:
        """Let tasks that only the shadow admitted begin."""
        for pick in picks:
            self._own[pick.reserved].add(pick, self._cost_us(pick))

    def _serve(self, lane: Lane, work_us: float) -> None:
        for pick in self._own[lane].serve(work_us):
            # It took what it was charged; of what was guessed nothing can be learnt.
            ended = Settled(pick.org, pick.workload, pick.reserved, 1, 0, 0, 0, 0)
            self.scheduler.settle(ended)

    def _correct(self, org: str, flow: FlowState, planned: int) -> None:
        known = (org, flow.workload)
        more = flow.backlog + planned - self._seen.get(known, 0)
        if more:
            self._seen[known] = flow.backlog + planned
            mine = self.scheduler.org(org).flows.get(flow.workload)
            # What was cancelled may be admitted here already.
            self.scheduler.set_backlog(*known, max(0, (mine.backlog if mine else 0) + more))

    def _cost_us(self, pick: Pick) -> int:
        state = self.scheduler.orgs.get(pick.org)
        flow = state.flows.get(pick.workload) if state else None
        return self.scheduler.estimate_us(flow or FlowState(pick.workload))

    def _taken(self, pick: Pick) -> tuple[str, int]:
        return pick.org, self._cost_us(pick)


def _copy(live: Scheduler, candidate: Candidate) -> Scheduler:
    """Return a scheduler of the candidate's policy that took the live orgs over as they are."""
    kind = StrictScheduler if candidate.policy is Policy.STRICT else WeightedScheduler
    scheduler = kind(
        cost_mode=candidate.cost_mode,
        virtual_time=live.main.virtual_time,
        express_virtual_time=live.express.virtual_time,
        admit_seq=live.admit_seq,
        cost_us=live.cost_us,
    )
    for line, other in zip(scheduler.lines, live.lines, strict=True):
        line.contended = other.contended
    scheduler.set_limits(capacity=candidate.limits.capacity, headroom=candidate.headroom)
    for name, workload in candidate.workloads.items():
        scheduler.set_workload(name, **workload._asdict())
    same = type(live) is kind
    for state in live.orgs.values():
        scheduler.load(_copy_org(state, in_line=same))
    # Ties between newcomers go by their numbers: both count on from the same.
    scheduler._appeared = live._appeared
    return scheduler


def _copy_org(state: OrgState, *, in_line: bool) -> OrgState:
    """Return a copy of an org; what one policy kept waiting is no credit under another."""
    copy = OrgState(
        state.org,
        state.weight,
        state.rank,
        state.burst_max,
        state.paused,
        last_admit=state.last_admit,
    )
    for mine, seat in zip(copy.seats, state.seats, strict=True):
        mine.tag, mine.virtual_time, mine.in_flight = seat.tag, seat.virtual_time, seat.in_flight
        mine.eligible = seat.eligible and in_line
    for flow in state.flows.values():
        copy.flows[flow.workload] = FlowState(
            flow.workload,
            flow.tags.copy(),
            flow.backlog,
            critical=flow.critical,
            cost_us=flow.cost_us,
        )
    return copy
