"""The weighted scheduler beside the naive one: the same events, the same state after each."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.fairness import Lane, Pick, Refreshed, Settled, WeightedScheduler, settled
from orchestrator.model import CostMode
from tests.conftest import NIGHTLY
from tests.unit.drawn import caps, orgs, workloads
from tests.unit.histories import COSTS_US, WORKLOADS, law
from tests.unit.oracle import LANES, NaiveAttempt, NaiveClass, NaiveScheduler

CAPACITY = 10


class Running(NamedTuple):
    """One attempt as either of the twins knows it."""

    pick: Pick
    naive: NaiveAttempt


def told(pick: Pick) -> NaiveAttempt:
    """Return a pick in the words of the naive twin."""
    lane = LANES[pick.reserved]
    return NaiveAttempt(pick.org, pick.workload, lane, pick.charged_us, pick.weight, pick.share)


class Twins(RuleBasedStateMachine):
    """The scheduler and the naive one, given the same events, must be in the same state."""

    @initialize(
        mode=st.sampled_from(CostMode),
        express=st.sampled_from((*WORKLOADS, None)),
        headroom=st.sampled_from((None, None, 0.4, 1.0)),
    )
    def start(self, mode: CostMode, express: str | None, headroom: float | None) -> None:
        self.real = WeightedScheduler(cost_mode=mode)
        self.naive = NaiveScheduler(time_mode=mode is CostMode.TIME)
        self.running: list[Running] = []
        self.real.set_limits(capacity=CAPACITY, headroom=headroom)
        self.naive.set_limits(CAPACITY, headroom)
        for rank, workload in enumerate(WORKLOADS):
            self.set_workload(workload, 1 + rank, rank, workload == express, 1_000_000)

    @rule(
        workload=workloads(),
        share=st.integers(1, 10),
        rank=st.integers(0, 2),
        express=st.booleans(),
        express_max_us=st.sampled_from((None, 500_000, 5_000_000)),
    )
    def set_workload(
        self, workload: str, share: int, rank: int, express: bool, express_max_us: int | None
    ) -> None:
        self.real.set_workload(
            workload, share=share, rank=rank, express=express, express_max_us=express_max_us
        )
        self.naive.set_workload(workload, NaiveClass(share, rank, express, express_max_us))
        self._wake()

    @rule(org=orgs(), weight=st.integers(1, 1_000), burst_max=caps(), paused=st.booleans())
    def configure(self, org: str, weight: int, burst_max: int | None, paused: bool) -> None:
        self._wake()
        self.real.configure(org, weight=weight, rank=0, burst_max=burst_max, paused=paused)
        self.naive.configure(org, weight, burst_max, paused)

    @rule(org=orgs(), workload=workloads(), tasks=st.integers(1, 20))
    def arrive(self, org: str, workload: str, tasks: int) -> None:
        self._wake()
        self.real.arrive(org, workload, tasks)
        self.naive.set_backlog(org, workload, self.real.orgs[org].flows[workload].backlog)

    @rule(org=orgs(), workload=workloads(), tasks=st.integers(0, 3))
    def set_backlog(self, org: str, workload: str, tasks: int) -> None:
        self._wake()
        self._set_backlog(org, workload, tasks)

    @rule(org=orgs(), workload=workloads(), tasks=st.integers(0, 3))
    def set_critical(self, org: str, workload: str, tasks: int) -> None:
        self.real.set_critical(org, workload, tasks)
        self.naive.flow(org, workload).critical = tasks

    def _set_backlog(self, org: str, workload: str, tasks: int) -> None:
        self.real.set_backlog(org, workload, tasks)
        self.naive.set_backlog(org, workload, tasks)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), costs_us=st.lists(st.sampled_from(COSTS_US), min_size=1, max_size=4))
    def settle(self, data: st.DataObject, costs_us: list[int]) -> None:
        for cost_us in costs_us[: len(self.running)]:
            ended = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            charged_us = ended.naive.charged_us
            self.real.settle(settled(ended.pick, cost_us, charged_us=charged_us))
            self.naive.settle(ended.naive, cost_us)
        self._wake()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), cost_us=st.integers(1, 10_000_000))
    def settle_all_of_a_flow(self, data: st.DataObject, cost_us: int) -> None:
        chosen = data.draw(st.sampled_from(self.running)).naive[:3]
        # Sixteen at most: of more, the estimate counts sixteen.
        ended = [one for one in self.running if one.naive[:3] == chosen][:16]
        self.running = [one for one in self.running if not any(one is other for other in ended)]
        ones = [settled(one.pick, cost_us, charged_us=one.naive.charged_us) for one in ended]
        sums = (sum(part) for part in zip(*(one[3:] for one in ones), strict=True))
        self.real.settle(Settled(*ones[0][:3], *sums))
        for one in ended:
            self.naive.settle(one.naive, cost_us)
        self._wake()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), percent=st.sampled_from((99, 100, 120, 125, 400)))
    def refresh(self, data: st.DataObject, percent: int) -> None:
        at = data.draw(st.integers(0, len(self.running) - 1))
        pick, naive = self.running[at]
        elapsed_us = naive.charged_us * percent // 100
        now = self.naive.refresh(naive, elapsed_us)
        if elapsed_us >= naive.charged_us:
            self.real.refresh(
                Refreshed(
                    pick.org,
                    pick.workload,
                    pick.reserved,
                    pick.weight,
                    pick.share,
                    naive.charged_us,
                    now.charged_us,
                )
            )
        self.running[at] = Running(pick, now)
        self._wake()

    @rule(org=orgs(), lane=st.sampled_from(Lane), count=st.integers(0, 5))
    def set_in_flight(self, org: str, lane: Lane, count: int) -> None:
        self.real.set_in_flight(org, count, lane)
        self.naive.set_in_flight(org, LANES[lane], count)
        # What is known of attempts that no longer hold a slot is of no use.
        kept = Counter({(org, LANES[lane]): count})
        running, self.running = self.running, []
        for one in running:
            seat = (one.naive.org, one.naive.lane)
            if seat != (org, LANES[lane]) or kept[seat] > 0:
                kept[seat] -= 1
                self.running.append(one)

    @rule(slots=st.integers(0, 20), reserve=st.integers(0, 3))
    def plan(self, slots: int, reserve: int) -> None:
        picks = self.real.plan(slots, reserve).picks
        assert [told(pick) for pick in picks] == self.naive.plan(slots, reserve)
        self.running += [Running(pick, told(pick)) for pick in picks]

    @rule(slots=st.integers(1, 20), reserve=st.integers(0, 3), found=st.integers(0, 2))
    def plan_and_find_fewer(self, slots: int, reserve: int, found: int) -> None:
        self._wake()
        trial = self.real.plan(slots, reserve)
        assert [told(pick) for pick in trial.picks] == self.naive.trial(slots, reserve)
        self.real.undo(trial)
        wanted = Counter((pick.org, pick.workload) for pick in trial.picks)
        for (org, workload), tasks in wanted.items():
            if found < tasks:
                self._set_backlog(org, workload, found)

    @rule()
    def close_round(self) -> None:
        self.real.close_round()
        self.naive.close_round()

    def _wake(self) -> None:
        self.real.wake()
        self.naive.wake()

    @invariant()
    def same_state(self) -> None:
        assert [line.virtual_time for line in self.real.lines] == list(self.naive.v.values())
        assert (self.real.admit_seq, self.real.cost_us) == (self.naive.served, self.naive.cost_us)
        assert set(self.real.orgs) == set(self.naive.orgs)
        for name, org in self.naive.orgs.items():
            real = self.real.orgs[name]
            for lane, seat in zip(LANES, real.seats, strict=True):
                expected = (org.tag[lane], org.v[lane], org.n[lane])
                assert (seat.tag, seat.virtual_time, seat.in_flight) == expected, (name, lane)
            flows = {w: (f.tags, f.backlog, f.cost_us) for w, f in real.flows.items()}
            assert flows == {
                w: (list(f.tag.values()), f.backlog, f.cost_us) for w, f in org.flows.items()
            }, name

    @invariant()
    def same_line(self) -> None:
        for lane, line in zip(LANES, self.real.lines, strict=True):
            standing = {org.org for org in self.real.order(line.lane)}
            assert standing == set(self.naive.eligible(lane)), lane
            assert line.contended == (lane in self.naive.left_waiting), lane


TestTwins = Twins.TestCase
TestTwins.settings = settings(law, max_examples=1_000 if NIGHTLY else 60, stateful_step_count=40)
