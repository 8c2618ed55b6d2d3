"""Service in time mode: worker time per weight, of tasks that take what they take.

The lag of two orgs is how far their worker time per weight drifts apart over any interval in which
both stay eligible. c is the largest cost of a task, D the most attempts an org ever had unfinished,
and P the most that all orgs had together, each counted 1 / w.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hypothesis import given

from orchestrator.fairness import COUNT_COST_US, WorkloadClass
from orchestrator.model import CostMode
from tests.unit.drawn import histories, worlds
from tests.unit.histories import Arrive, Cap, Correct, Event, OrgConfig, Pause, World, law
from tests.unit.timed import Lags, Round, Timed, largest_us, timed_histories, timed_worlds

SECOND = 1_000_000


def note_most(timed: Timed, most: Counter[str], together: list[Fraction]) -> None:
    """Bring up to date D of each org, and P."""
    total = Fraction(0)
    for org, decided in timed.world.config.items():
        held = timed.world.held(org)
        most[org] = max(most[org], held)
        total += Fraction(held, decided.weight)
    together[:] = [max(together[0], total)]


@law
@given(timed_worlds(refreshing=False), timed_histories())
def test_the_lag_of_two_orgs_is_bounded_by_what_both_may_hold(
    timed: Timed, history: list[Event | Round]
) -> None:
    """G2: |W_f / w_f - W_g / w_g| <= c (2 D_f / w_f + 2 D_g / w_g + P).

    Proof. Let G = F - O / w, O being what an org's running attempts are charged and have not used;
    while the org stays eligible, w G grows by exactly its worker time. At an admission of f, F_f is
    at most F_g; from then on f's at most D_f running attempts use at most c each, and G_g lies at
    most D_g c / w_g below F_g. So G_f - G_g <= c (D_f / w_f + D_g / w_g) at the end. At the
    beginning it is no lower than minus the same where both have been in line since g was last
    admitted. Else f has woken since: g is at most D_g c / w_g above V, and f started no more than
    c P below it (see the corridor), and has used up to D_f c / w_f less than it is charged.
    """
    assert_lag(timed, history, Fraction(1))


@law
@given(timed_worlds(refreshing=True), timed_histories())
def test_the_lag_of_two_orgs_is_bounded_where_overruns_are_refreshed_too(
    timed: Timed, history: list[Event | Round]
) -> None:
    """G2: |W_f / w_f - W_g / w_g| <= 1.25 c (2 D_f / w_f + 2 D_g / w_g + P).

    As above, but an overrun is charged a quarter more than was used, and a guess learnt from it is
    that much too high.
    """
    assert_lag(timed, history, Fraction(5, 4))


def assert_lag(timed: Timed, history: list[Event | Round], factor: Fraction) -> None:
    lags, most, together = Lags(), Counter[str](), [Fraction(0)]
    c, config = largest_us(timed), timed.world.config

    def look(timed: Timed, _: str | None) -> None:
        note_most(timed, most, together)
        for (f, g), lag in lags.look(timed, timed.eligible()).items():
            may_hold = Fraction(most[f], config[f].weight) + Fraction(most[g], config[g].weight)
            # One microsecond for the rounding of a quarter.
            assert lag <= factor * (c + 1) * (2 * may_hold + together[0])

    timed.run(history, look)


@law
@given(timed_worlds(refreshing=True), timed_histories())
def test_an_org_that_overruns_its_charges_is_not_admitted_ahead_of_others(
    timed: Timed, history: list[Event | Round]
) -> None:
    """W_f / w_f - W_g / w_g <= 1.25 c (D_f / w_f + 2 D_g / w_g + P) at admissions of f.

    Over intervals in which both stay eligible and that end with an admission of f, refreshed in the
    same round: then no attempt has used more than it is charged, so G_f <= F_f <= F_g, where
    without refreshing G_f may be c D_f / w_f above.
    """
    start: dict[tuple[str, str], Fraction] = {}
    most, together = Counter[str](), [Fraction(0)]
    c, config = largest_us(timed), timed.world.config

    def look(timed: Timed, following: str | None) -> None:
        note_most(timed, most, together)
        present = timed.eligible()
        for f in config:
            for g in config:
                if f == g or not {f, g} <= present:
                    start.pop((f, g), None)
                    continue
                ahead = timed.service(f) - timed.service(g)
                start[f, g] = min(start.get((f, g), ahead), ahead)
                if following == f:
                    bound = Fraction(most[f], config[f].weight) + together[0]
                    bound += Fraction(2 * most[g], config[g].weight)
                    assert ahead - start[f, g] <= Fraction(5, 4) * bound * (c + 1)

    timed.run(history, look)


def test_the_bound_is_nearly_reached() -> None:
    """Ten slots, c = 1 s: believed to take 1 s and ending at once, then long ones believed short.

    An org that holds all slots is refunded ten seconds, uses them before a newcomer is due, and
    fills its slots once more just in time: 1.9 c D, so no bound of 1.25 c holds.
    """
    config = {"ada": OrgConfig(), "bob": OrgConfig()}
    world = World(config, {"etl": WorkloadClass()}, CostMode.TIME)
    durations_us = {"ada": [SECOND] + [1_000] * 8_990 + [SECOND] * 100, "bob": [SECOND]}
    timed = Timed(world, 10, durations_us, refreshing=True)
    learning: list[Event | Round] = [Arrive("ada", "etl", 1), Round(0), Round(SECOND)]
    timed.run([*learning, Arrive("ada", "etl", 10**6), Round(0)], no_look)
    timed.run([Arrive("bob", "etl", 10**6)], no_look)
    before = timed.service("ada")
    timed.run([Round(1_000)] * 1_890, no_look)
    assert world.held("bob") == 0
    lag = timed.service("ada") - before
    assert Fraction(185, 100) * 10 * SECOND < lag <= Fraction(9, 4) * 10 * SECOND


def no_look(_: Timed, __: str | None) -> None:
    """Look at nothing."""


def steady(weight: dict[str, int], takes_us: dict[str, int], slots: int) -> Timed:
    """Return orgs without end of work that all take turns on `slots` slots."""
    world = World(
        config={org: OrgConfig(w) for org, w in weight.items()},
        workloads={"etl": WorkloadClass()},
        cost_mode=CostMode.TIME,
    )
    timed = Timed(world, slots, {org: [us] for org, us in takes_us.items()}, refreshing=True)
    return timed.run([Arrive(org, "etl", 10**6) for org in weight], no_look)


def test_equal_weights_get_equal_worker_time_whatever_a_task_takes() -> None:
    takes_us = {"short": 50_000, "middle": SECOND, "long": 10 * SECOND}
    timed = steady(dict.fromkeys(takes_us, 1), takes_us, slots=8)
    timed.run([Round(50_000)] * 4_000, no_look)
    service = [float(timed.service(org)) for org in takes_us]
    jain = sum(service) ** 2 / (len(service) * sum(part**2 for part in service))
    assert jain > 0.99


def test_shares_of_worker_time_are_those_of_the_weights_with_unequal_durations() -> None:
    takes_us = {"ada": SECOND, "bob": 50_000, "cyd": 400_000}
    timed = steady({"ada": 5, "bob": 3, "cyd": 2}, takes_us, slots=10)
    timed.run([Round(50_000)] * 4_000, no_look)
    per_weight = [timed.service(org) for org in takes_us]
    assert min(per_weight) > Fraction(95, 100) * max(per_weight)


# Conservation -----------------------------------------------------------------------------------


@law
@given(worlds(), histories())
def test_what_an_attempt_is_charged_in_all_is_its_worker_time(
    world: World, history: list[Event]
) -> None:
    """G10: with work without end nobody wakes late, so a tag is the sum of the charges.

    Every attempt counts, retries too, at the weight and the share of its admission, in its lane.
    """
    short = {n: decided._replace(express_max_us=None) for n, decided in world.workloads.items()}
    config = {org: OrgConfig(decided.weight) for org, decided in world.config.items()}
    world = World(config, short, world.cost_mode)
    endless = [Arrive(org, name, 10**6) for org in world.config for name in world.workloads]
    held_back = (Pause, Cap, Correct)
    world.run([*endless, *(event for event in history if not isinstance(event, held_back))])
    world.end([(attempt, 4_321_000) for attempt in world.running])
    tags, flows = Counter[tuple[str, bool]](), Counter[tuple[str, str, bool]]()
    for pick, took_us in world.ended:
        cost_us = took_us if world.cost_mode is CostMode.TIME else COUNT_COST_US
        tags[pick.org, pick.reserved] += max(1, cost_us * 1024 // pick.weight)
        flows[pick.org, pick.workload, pick.reserved] += max(1, cost_us * 1024 // pick.share)
    for name, org in world.scheduler.orgs.items():
        assert {type(seat.tag) for seat in org.seats} == {int}
        assert [seat.tag for seat in org.seats] == [tags[name, False], tags[name, True]]
        for flow in org.flows.values():
            due = [flows[name, flow.workload, False], flows[name, flow.workload, True]]
            assert flow.tags == due
