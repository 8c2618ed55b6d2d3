"""The shadow of a policy: equal to it where it decides the same, and right about what it would do
elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fairness import (
    Limits,
    OrgState,
    Pick,
    Ready,
    Refreshed,
    Scheduler,
    Settled,
    StrictScheduler,
    WeightedScheduler,
    WorkloadClass,
    charge_of,
    free_slots,
    overrun,
    settled,
)
from orchestrator.fairness.shadowing.comparison import (
    ORGS_MAX,
    Comparison,
    Difference,
    ShadowReport,
)
from orchestrator.fairness.shadowing.shadow import Candidate, Offer, Shadow
from orchestrator.fairness.shadowing.twins import InFlight, Own, Pair, corrected
from orchestrator.fairness.simulation.policy import Terms
from orchestrator.model import CostMode, Policy
from tests.unit.drawn import caps, orgs, weights, workloads
from tests.unit.histories import COSTS_US, ORGS, law, snapshot

TICK_S = 0.01
WORKLOADS_DECIDED = {
    "api": WorkloadClass(8, 1, express=True, express_max_us=1_000_000),
    "etl": WorkloadClass(2, 2),
    "ocr": WorkloadClass(1, 3),
}
STANDARD = Terms("standard", weight=1, rank=1, burst_max=None, paused=False)


class Running:
    """A live attempt: what it was admitted as, what it is charged, what it has left to do."""

    def __init__(self, pick: Pick, cost_us: int, number: int) -> None:
        self.pick = pick
        self.charged_us = pick.charged_us
        self.cost_us = self.left_us = cost_us
        self.number = number


class Leader:
    """A live scheduler in rounds, and its shadow: the calls that a leader makes of both.

    `workers` run what is ready, in the order of admission.
    """

    def __init__(
        self,
        terms: dict[str, Terms] | None = None,
        *,
        policy: Policy = Policy.WEIGHTED,
        cost_mode: CostMode = CostMode.TIME,
        limits: Limits = Limits(),  # noqa: B008 - a value
        headroom: float | None = None,
        workloads: dict[str, WorkloadClass] | None = None,
        workers: int = 4,
        window: int = 4,
    ) -> None:
        kind = StrictScheduler if policy is Policy.STRICT else WeightedScheduler
        self.live: Scheduler = kind(cost_mode=cost_mode)
        self.terms = terms or {}
        self.candidate = Candidate(
            policy,
            cost_mode,
            limits,
            headroom,
            WORKLOADS_DECIDED if workloads is None else workloads,
        )
        self.live.set_limits(capacity=limits.capacity, headroom=headroom)
        for name, decided in self.candidate.workloads.items():
            self.live.set_workload(name, **decided._asdict())
        self.workers, self.window = workers, window
        self.now_s = 0.0
        self.paused = False
        self.ready: list[Running] = []
        self.running: list[Running] = []
        self.picks: list[Pick] = []
        self.cost_us: dict[str, int] = {}
        # Terms of the candidate that differ.
        self.proposed: dict[str, Terms] = {}
        self.shadow: Shadow | None = None

    def terms_of(self, org: str, *, proposed: bool = False) -> Terms:
        decided = self.terms.get(org, STANDARD)
        return self.proposed.get(org, decided) if proposed else decided

    def begin(self, *, proposed: dict[str, Terms] | None = None, **candidate: object) -> Leader:
        """Begin the shadow of a candidate that differs from the live policy in so much."""
        self.proposed = proposed or {}
        wanted = replace(self.candidate, **candidate)  # type: ignore[arg-type]
        # A shadow begins where the configuration was read, and that wakes.
        self.live.wake()
        terms = [(org, self.terms_of(org, proposed=True)) for org in self.live.orgs]
        self.shadow = Shadow(self.live, wanted, terms, self.now_s)
        return self

    @property
    def beside(self) -> Shadow:
        assert self.shadow is not None
        return self.shadow

    def decide(self, org: str, terms: Terms) -> None:
        """Change what is decided of an org, live."""
        self.terms[org] = terms
        if org in self.live.orgs:
            self._configure(org)
            self.live.wake()
            if self.shadow:
                changed = [(org, self.terms_of(org, proposed=True))]
                self.shadow.configure(self.shadow.candidate, changed)

    def round(
        self,
        arrivals: Iterable[tuple[str, str, int]] = (),
        *,
        ended: Iterable[tuple[Running, int]] = (),
        overran: Iterable[tuple[Running, int]] = (),
        missing: dict[tuple[str, str], int] | None = None,
        late: Counter[tuple[str, str]] | None = None,
        critical: Iterable[tuple[str, str, int]] = (),
        ordinary: Iterable[tuple[str, str]] = (),
        passed_s: float = TICK_S,
    ) -> list[Pick]:
        """Do one round; of the flows in `missing` the plan turns out to hold so few tasks, and
        `late` tasks are found beyond the feed. So many more tasks are `critical`; of the flows in
        `ordinary` the last one admitted turns out not to be.
        """
        self.now_s += passed_s
        if self.shadow:
            self.shadow.begin_round(self.now_s)
        self._settle(ended)
        self.live.wake()
        if self.shadow:
            self.shadow.wake()
        for org, workload, tasks in arrivals:
            self._introduce(org)
            self.live.arrive(org, workload, tasks)
            if self.shadow:
                self.shadow.arrive(org, workload, tasks)
        for org, workload, more in critical:
            self._introduce(org)
            self.live.arrive(org, workload, 0)
            if self.shadow:
                self.shadow.arrive(org, workload, 0)
            self._expect(org, workload, self.live.orgs[org].flows[workload].critical + more)
        for attempt, elapsed_us in overran:
            self._refresh(attempt, elapsed_us)
        picks = self._admit(missing or {}, late or Counter(), set(ordinary))
        self.live.close_round()
        if self.shadow:
            self.shadow.look(self.live, self._offer())
            self.shadow.close_round()
        return picks

    def work(self, passed_s: float = TICK_S) -> list[tuple[Running, int]]:
        """Let the workers claim and work for a round; return what ended, with its true cost."""
        while self.ready and len(self.running) < self.workers:
            self.running.append(self.ready.pop(0))
        for attempt in self.running:
            attempt.left_us -= round(passed_s * 1e6)
        done = [attempt for attempt in self.running if attempt.left_us <= 0]
        return [(attempt, attempt.cost_us) for attempt in done]

    def serve(self, rounds: int, arrivals: Iterable[tuple[str, str, int]] = ()) -> None:
        """Do rounds with workers that take as long as the flow's tasks take."""
        for _ in range(rounds):
            self.round(arrivals, ended=self.work())
            arrivals = ()

    def report(self) -> ShadowReport:
        return self.beside.report(None, 10.0, self.now_s)

    def _offer(self) -> Offer:
        express = sum(attempt.pick.express for attempt in self.ready)
        ready = Ready(len(self.ready) - express, express)
        return Offer(self.window, ready, 1000, self.workers, self.paused)

    def _introduce(self, org: str) -> None:
        if org not in self.live.orgs:
            self._configure(org)
            if self.shadow:
                self.shadow.introduce(org, self.terms_of(org, proposed=True))

    def _configure(self, org: str) -> None:
        decided = self.terms_of(org)
        self.live.configure(
            org,
            weight=decided.weight,
            rank=decided.rank,
            burst_max=decided.burst_max,
            paused=decided.paused,
        )

    def _settle(self, ended: Iterable[tuple[Running, int]]) -> None:
        flows: dict[tuple[str, str, bool], list[Settled]] = {}
        for attempt, cost_us in ended:
            one = settled(attempt.pick, cost_us, charged_us=attempt.charged_us)
            flows.setdefault((one.org, one.workload, one.reserved), []).append(one)
            (self.running if attempt in self.running else self.ready).remove(attempt)
        for (org, workload, reserved), ones in sorted(flows.items()):
            sums = (sum(part) for part in zip(*(one[3:] for one in ones), strict=True))
            together = Settled(org, workload, reserved, *sums)
            self.live.settle(together)
            if self.shadow:
                self.shadow.settle(together, max(one.cost_us for one in ones))

    def _refresh(self, attempt: Running, elapsed_us: int) -> None:
        if self.live.cost_mode is CostMode.COUNT or elapsed_us < attempt.charged_us:
            return
        pick, now_us = attempt.pick, overrun(attempt.charged_us, elapsed_us)
        event = Refreshed(
            pick.org,
            pick.workload,
            pick.reserved,
            pick.weight,
            pick.share,
            attempt.charged_us,
            now_us,
        )
        attempt.charged_us = now_us
        self.live.refresh(event)
        self.live.wake()
        if self.shadow:
            self.shadow.refresh(event)
            self.shadow.wake()

    def _expect(self, org: str, workload: str, count: int) -> None:
        more = count - self.live.orgs[org].flows[workload].critical
        self.live.set_critical(org, workload, count)
        if self.shadow and more:
            self.shadow.expect_critical(org, workload, more)

    def _admit(
        self,
        missing: dict[tuple[str, str], int],
        late: Counter[tuple[str, str]],
        ordinary: set[tuple[str, str]],
    ) -> list[Pick]:
        offer = self._offer()
        free = free_slots(self.live, self.candidate.limits, self.window, offer.ready)
        if self.paused or not self.live.eligible or not any(free):
            return []
        plan = self.live.plan(*free)
        planned = Counter((pick.org, pick.workload) for pick in plan.picks)
        short = {flow: found for flow, found in missing.items() if found < planned[flow]}
        if short:
            self.live.undo(plan)
            for flow, found in short.items():
                self.live.set_backlog(*flow, found)
            plan = self.live.plan(*free)
        for org, workload in {(pick.org, pick.workload) for pick in plan.picks} & ordinary:
            self._expect(org, workload, 0)
        if self.shadow:
            self.shadow.correct(self.live, plan)
        if not plan.picks:
            return []
        planned = Counter((pick.org, pick.workload) for pick in plan.picks)
        for flow in planned & late:
            self.live.arrive(*flow, late[flow])
        if self.shadow:
            self.shadow.admit(self.live, plan, offer)
        self.live.dirty.clear()
        for pick in plan.picks:
            cost_us = self.cost_us.get(pick.org, 1_000_000)
            self.ready.append(Running(pick, cost_us, len(self.picks)))
            self.picks.append(pick)
        return plan.picks


def difference(report: ShadowReport, org: str) -> Difference:
    (found,) = [each for each in report.orgs if each.name == org]
    return found


# A candidate that decides as the live policy does ------------------------------------------------


@st.composite
def leaders(draw: st.DrawFn) -> Leader:
    capacity = draw(st.none() | st.integers(2, 12))
    return Leader(
        {
            org: Terms("standard", draw(weights()), draw(st.integers(0, 2)), draw(caps()), False)
            for org in ORGS
        },
        policy=draw(st.sampled_from(Policy)),
        cost_mode=draw(st.sampled_from(CostMode)),
        limits=Limits(capacity, draw(st.none() | st.integers(0, 3))),
        headroom=draw(st.none() | st.just(2.0)) if capacity else None,
        window=draw(st.integers(1, 10)),
    )


def drawn_round(draw: Callable[..., Any], leader: Leader) -> None:
    """Do a round of anything that can happen in one."""
    flows = st.tuples(orgs(), workloads())
    held = [*leader.running, *leader.ready]
    chosen = draw(st.lists(st.sampled_from(held), unique=True, max_size=6)) if held else []
    split = draw(st.integers(0, len(chosen)))
    leader.paused = draw(st.sampled_from((False, False, False, True)))
    leader.round(
        [
            (*flow, count)
            for flow, count in draw(st.lists(st.tuples(flows, st.integers(1, 9)), max_size=3))
        ],
        ended=[(attempt, draw(st.sampled_from(COSTS_US))) for attempt in chosen[:split]],
        overran=[(attempt, draw(st.sampled_from(COSTS_US))) for attempt in chosen[split:]],
        missing=dict.fromkeys(draw(st.lists(flows, max_size=3)), draw(st.integers(0, 2))),
        late=Counter(draw(st.lists(flows, max_size=2))),
        critical=[
            (*flow, more)
            for flow, more in draw(st.lists(st.tuples(flows, st.integers(1, 4)), max_size=2))
        ],
        ordinary=draw(st.lists(flows, max_size=3)),
        passed_s=draw(st.sampled_from((0.0, 0.005, 1.0, 60.0))),
    )
    if draw(st.sampled_from((False, False, True))):
        org = draw(orgs())
        leader.decide(org, Terms("standard", draw(weights()), 1, draw(caps()), draw(st.booleans())))


@law
@given(leaders(), st.data())
def test_a_candidate_that_changes_nothing_stays_equal_bit_for_bit(
    leader: Leader, data: st.DataObject
) -> None:
    before, after = data.draw(st.integers(0, 6)), data.draw(st.integers(5, 25))
    for _ in range(before):
        drawn_round(data.draw, leader)
    leader.begin()
    for _ in range(after):
        drawn_round(data.draw, leader)
        assert snapshot(leader.beside.scheduler) == snapshot(leader.live)
    report = leader.report()
    assert (report.moved, report.earlier, report.later) == (0, 0, 0)
    assert report.total.live == report.total.shadow
    assert all(each.dwell_change_s == 0 for each in (*report.orgs, *report.tiers))


@law
@given(leaders(), st.data())
def test_a_shadow_changes_nothing_live_whatever_the_candidate(
    leader: Leader, data: st.DataObject
) -> None:
    """And its counts stay sane: nothing below zero, nothing admitted twice."""
    alone = data.draw(st.integers(0, 3))
    for _ in range(alone):
        drawn_round(data.draw, leader)
    leader.begin(
        policy=data.draw(st.sampled_from(Policy)),
        cost_mode=data.draw(st.sampled_from(CostMode)),
        limits=Limits(data.draw(st.none() | st.integers(1, 20)), data.draw(st.none() | st.just(2))),
        proposed={
            org: Terms("standard", data.draw(weights()), 1, data.draw(caps()), False)
            for org in ORGS
        },
    )
    for _ in range(data.draw(st.integers(5, 20))):
        told = snapshot(leader.live)
        leader.beside.look(leader.live, leader._offer())
        assert snapshot(leader.live) == told
        drawn_round(data.draw, leader)
    scheduler = leader.beside.scheduler
    for org in scheduler.orgs.values():
        assert all(seat.in_flight >= 0 for seat in org.seats)
        assert all(flow.backlog >= 0 for flow in org.flows.values())
        assert org.in_flight == sum(seat.in_flight for seat in org.seats)


def test_a_candidate_admits_the_critical_tasks_that_are_left_to_it() -> None:
    """The live policy has served all of them by the time the candidate's org may run again."""
    leader = Leader(window=1, workloads={"api": WorkloadClass(), "etl": WorkloadClass()})
    leader.round([("ada", "etl", 3), ("bob", "etl", 9)])
    leader.begin(proposed={"ada": STANDARD._replace(paused=True)})
    leader.round([("ada", "api", 3), ("ada", "etl", 3)], critical=[("ada", "api", 2)])
    leader.serve(400)
    assert leader.live.orgs["ada"].flows["api"].critical == 0
    mine = leader.beside.scheduler.orgs["ada"].flows["api"]
    assert (mine.backlog, mine.critical) == (3, 2)


def test_what_turns_out_not_to_be_critical_is_not_for_the_candidate_either() -> None:
    leader = Leader(window=1).begin()
    leader.round([("ada", "etl", 3)], critical=[("ada", "etl", 3)], ordinary=[("ada", "etl")])
    flows = [each.orgs["ada"].flows["etl"] for each in (leader.live, leader.beside.scheduler)]
    assert [(flow.backlog, flow.critical) for flow in flows] == [(2, 0), (2, 0)]


# A candidate that decides otherwise --------------------------------------------------------------


@law
@given(leaders(), st.data())
def test_what_both_were_told_of_both_admit_once_in_the_end(
    leader: Leader, data: st.DataObject
) -> None:
    """Whatever the candidate: tasks are neither lost to it nor doubled, and all of it ends."""
    leader.begin(
        policy=data.draw(st.sampled_from(Policy)),
        limits=Limits(data.draw(st.none() | st.integers(2, 20)), data.draw(st.none() | st.just(2))),
        proposed={
            org: Terms("standard", data.draw(weights()), 1, data.draw(caps()), False)
            for org in ORGS
        },
    )
    flows = st.tuples(orgs(), workloads(), st.integers(1, 9))
    for arrivals in data.draw(st.lists(st.lists(flows, max_size=3), min_size=1, max_size=8)):
        leader.cost_us = {org: data.draw(st.sampled_from((20_000, 300_000))) for org in ORGS}
        leader.round(arrivals, ended=leader.work(0.1), passed_s=0.1)
    shadow = leader.beside.scheduler
    for _ in range(2_000):
        if not (leader.live.backlog or leader.live.in_flight or shadow.backlog or shadow.in_flight):
            break
        leader.round((), ended=leader.work(0.1), passed_s=0.1)
    assert (shadow.backlog, shadow.in_flight) == (0, 0)
    report = leader.report()
    assert report.total.live == len(leader.picks)
    assert [(o.name, o.shadow) for o in report.orgs] == [(o.name, o.live) for o in report.orgs]


class Outcome:
    """A candidate's shadow beside what really happens where it is the live policy."""

    def __init__(
        self,
        terms: dict[str, Terms],
        proposed: dict[str, Terms],
        arrivals: dict[int, list[tuple[str, str, int]]],
        cost_us: dict[str, int],
        rounds: int,
        **kwargs: object,
    ) -> None:
        waited: list[Counter[str]] = []
        leaders = []
        for decided in (terms, {**terms, **proposed}):
            leader = Leader(dict(decided), **kwargs)  # type: ignore[arg-type]
            leader.cost_us = cost_us
            leader.round([(org, "etl", 0) for org in terms])
            leader.begin(proposed=proposed)
            area: Counter[str] = Counter()
            for number in range(rounds):
                leader.round(arrivals.get(number, ()), ended=leader.work())
                for org, state in leader.live.orgs.items():
                    area[org] += state.backlog * round(TICK_S * 1000)
            waited.append(area)
            leaders.append(leader)
        self.report = leaders[0].report()
        self.admitted = [Counter(pick.org for pick in leader.picks) for leader in leaders]
        self._waited = waited

    def dwell_change_s(self, org: str) -> float:
        """Return what the mean dwell of `org` really changes by."""
        tasks = max(admitted[org] for admitted in self.admitted)
        return (self._waited[1][org] - self._waited[0][org]) / 1000 / tasks

    def check(self, org: str, *, within: float) -> None:
        told = difference(self.report, org)
        assert told.live == self.admitted[0][org]
        assert told.shadow == pytest.approx(self.admitted[1][org], rel=within)
        assert told.dwell_change_s == pytest.approx(self.dwell_change_s(org), rel=within)


@pytest.mark.parametrize("cost_us", [200_000, 1_000_000])
def test_more_weight_is_told_with_its_price(cost_us: int) -> None:
    """The tasks of one org take as long, or five times as long, as those of the other."""
    outcome = Outcome(
        {"ada": STANDARD, "bob": STANDARD},
        {"ada": STANDARD._replace(weight=2)},
        {0: [("ada", "etl", 3000), ("bob", "etl", 3000)]},
        {"ada": cost_us, "bob": 200_000},
        rounds=1500,
        workers=20,
        window=8,
    )
    ada, bob = (difference(outcome.report, org) for org in ("ada", "bob"))
    assert ada.dwell_change_s < 0 < bob.dwell_change_s
    assert ada.live_share == pytest.approx(1 / 2, abs=0.05)
    assert ada.shadow_share == pytest.approx(2 / 3, abs=0.05)
    outcome.check("ada", within=0.15)
    outcome.check("bob", within=0.15)
    assert outcome.report.moved > 0


def test_a_higher_cap_uses_workers_that_stood_idle() -> None:
    outcome = Outcome(
        {"ada": STANDARD._replace(burst_max=5)},
        {"ada": STANDARD},
        {0: [("ada", "etl", 300)]},
        {"ada": 200_000},
        rounds=1500,
        workers=20,
        window=8,
    )
    assert difference(outcome.report, "ada").dwell_change_s < -3
    outcome.check("ada", within=0.3)
    # All that is sooner is not there to be admitted later.
    assert outcome.report.earlier == outcome.report.later > 200


def test_a_lower_cap_leaves_its_slots_to_others() -> None:
    outcome = Outcome(
        {"ada": STANDARD, "bob": STANDARD},
        {"ada": STANDARD._replace(burst_max=3)},
        {0: [("ada", "etl", 1000), ("bob", "etl", 1000)]},
        {"ada": 200_000, "bob": 200_000},
        rounds=1000,
        workers=10,
        window=8,
    )
    assert difference(outcome.report, "bob").dwell_change_s < 0
    outcome.check("ada", within=0.3)
    outcome.check("bob", within=0.3)


def test_a_paused_org_gets_nothing_and_its_work_stays() -> None:
    leader = Leader(workers=4).begin(proposed={"ada": STANDARD._replace(paused=True)})
    leader.cost_us = {"ada": 10_000}
    leader.serve(50, [("ada", "etl", 10)])
    report = leader.report()
    assert (report.total.live, report.total.shadow, report.later) == (10, 0, 10)
    assert leader.beside.scheduler.backlog == 10
    # Ten tasks, admitted at once live, have now waited since.
    assert report.total.dwell_change_s > 0


def test_a_configuration_that_changes_live_changes_the_candidate_where_it_says_nothing() -> None:
    leader = Leader(workers=4).begin(proposed={"ada": STANDARD._replace(weight=7)})
    leader.serve(3, [("ada", "etl", 5), ("bob", "etl", 5)])
    leader.decide("ada", STANDARD._replace(weight=3))
    leader.decide("bob", STANDARD._replace(weight=3))
    weights = {name: org.weight for name, org in leader.beside.scheduler.orgs.items()}
    assert weights == {"ada": 7, "bob": 3}


# The parts ----------------------------------------------------------------------------------------


def test_the_change_of_dwell_is_the_difference_of_waiting_over_the_tasks() -> None:
    # Staged at 0: ada's two tasks start at 1 and 2 live, at 4 and 2 in the shadow; bob's the
    # other way round. So ada waits 3 s longer in all, and bob 3 s less.
    comparison = Comparison(0.0)
    one = [("ada", 10)]
    comparison.note(one, [("bob", 30)], 1.0)
    comparison.note(one, one, 2.0)
    comparison.note([("bob", 30)], one, 4.0)
    report = comparison.report({"ada": "free", "bob": "premium"}, 10.0)
    ada, bob = (difference(report, org) for org in ("ada", "bob"))
    assert (ada.dwell_change_s, bob.dwell_change_s) == (1.5, -3.0)
    assert (ada.live_share, ada.shadow_share) == (0.4, 0.4)
    assert (report.moved, report.earlier, report.later) == (2, 0, 0)
    assert [(t.name, t.orgs, t.live) for t in report.tiers] == [("free", 1, 2), ("premium", 1, 1)]
    assert report.total.dwell_change_s == 0


def test_admissions_without_a_counterpart_are_earlier_or_later() -> None:
    comparison = Comparison(0.0)
    comparison.note([], [("ada", 1), ("bob", 1)], 1.0)
    comparison.note([("ada", 1)], [], 2.0)
    comparison.note([("ada", 1), ("ada", 1), ("bob", 1)], [("cyd", 1)], 2.0)
    report = comparison.report({}, 3.0)
    assert (report.moved, report.earlier, report.later) == (1, 2, 3)


def test_a_report_names_those_who_feel_it_most_and_counts_the_others() -> None:
    comparison = Comparison(0.0)
    orgs = [f"org{number:02}" for number in range(ORGS_MAX + 5)]
    for number, org in enumerate(orgs):
        comparison.note([(org, 1)], [], 0.0)
        comparison.note([], [(org, 1)], float(number))
    report = comparison.report(dict.fromkeys(orgs, "free"), 100.0)
    assert [org.name for org in report.orgs] == orgs[::-1][:ORGS_MAX]
    assert (report.total.orgs, report.tiers[0].orgs) == (len(orgs), len(orgs))


def test_jain_is_the_mean_of_windows_in_which_both_could_be_told() -> None:
    comparison = Comparison(0.0)
    for live, shadow in ((1.0, 0.5), (0.5, None), (None, 0.5), (0.5, 0.75)):
        comparison.compare_windows(live, shadow)
    report = comparison.report({}, 1.0)
    assert (report.windows, report.jain_live, report.jain_shadow) == (2, 0.75, 0.625)


def pick(org: str = "ada", workload: str = "etl", *, weight: int = 1) -> Pick:
    return Pick(org, workload, 1_000_000, weight, 1)


def test_tasks_of_its_own_share_worker_time_equally() -> None:
    own = Own()
    own.add(pick("ada"), 100)
    own.add(pick("bob"), 300)
    assert list(own.serve(150)) == []
    assert [ended.org for ended in own.serve(50)] == ["ada"]
    own.add(pick("cyd"), 100)
    assert list(own.serve(199)) == []
    assert [ended.org for ended in own.serve(1_000)] == ["cyd", "bob"]
    assert len(own) == 0


def test_worker_time_that_is_left_is_for_the_next_task_or_for_nobody() -> None:
    own = Own()
    own.add(pick("ada"), 100)
    assert [ended.org for ended in own.serve(150)] == ["ada"]
    own.add(pick("bob"), 100)
    assert [ended.org for ended in own.serve(50)] == ["bob"]
    own.add(pick("cyd"), 10)
    assert [ended.org for ended in own.serve(1_000)] == ["cyd"]
    own.forfeit()
    own.add(pick("dan"), 100)
    assert list(own.serve(99)) == []


def ends(flight: InFlight, workload: str, slots: int) -> list[Pair | None]:
    ended = Settled("ada", workload, False, slots, slots, 0, 0, 0)
    return flight.end(ended, ("etl", "api"))


def test_the_oldest_end_first_and_those_from_before_are_the_oldest() -> None:
    state = OrgState("ada")
    state.main.in_flight = 2
    flight = InFlight([state])
    alone, both = Pair(pick(), None), Pair(pick(), pick())
    flight.add(alone)
    flight.add(both)
    assert flight.alone == [1, 0]
    assert flight.oldest("ada", "etl", False) is None
    assert ends(flight, "etl", 3) == [None, None, alone]
    assert flight.alone == [0, 0]
    assert flight.oldest("ada", "etl", False) == both
    # One of the two from before was of `api` after all.
    assert ends(flight, "api", 1) == [both]
    assert ends(flight, "etl", 1) == [None]


def test_a_twin_is_settled_by_its_own_weight_and_charge() -> None:
    live = Pick("ada", "etl", 1_000_000, weight=1, share=2)
    mine = Pick("ada", "etl", 2_000_000, weight=4, share=2)
    # Two live attempts took 3 s each and were charged 1 s; one has a twin.
    missed = charge_of(3_000_000, 1) - charge_of(1_000_000, 1)
    inside = charge_of(3_000_000, 2) - charge_of(1_000_000, 2)
    ended = Settled("ada", "etl", False, 2, 2, 6_000_000, 2 * missed, 2 * inside)
    assert corrected([Pair(live, mine)], ended) == (
        charge_of(3_000_000, 4) - charge_of(2_000_000, 4),
        charge_of(3_000_000, 2) - charge_of(2_000_000, 2),
    )
    assert corrected([None, Pair(live, live)], ended) == (2 * missed, 2 * inside)
