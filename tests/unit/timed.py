"""A world with a clock: attempts take their time, workers finish them, rounds come when they come.

Time is worker time in microseconds. Between two rounds attempts run and end; a round then settles
what ended, refreshes what overran, and fills the slots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations, cycle
from typing import NamedTuple

from hypothesis import strategies as st

from orchestrator.fairness import GUESS_US, WorkloadClass
from orchestrator.model import CostMode
from tests.unit.drawn import caps, orgs, weights
from tests.unit.histories import ORGS, Arrive, Attempt, Event, OrgConfig, Tick, World

# Multiples of what the weights divide, so that a charge for the true cost has no rounding.
DURATIONS_US = (1_000, 10_000, 1_000_000, 10_000_000)
WORKLOADS = ("etl", "ocr")


class Round(NamedTuple):
    """So much time passes; then one round."""

    pass_us: int


@dataclass
class Timed:
    """A world of `slots` slots, and when each attempt began and how long it takes."""

    world: World
    slots: int
    durations_us: dict[str, list[int]]
    refreshing: bool
    now_us: int = 0
    began: dict[int, tuple[Attempt, int, int]] = field(default_factory=dict)
    # Worker time of ended attempts, by org.
    used_us: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._next = {flow: cycle(times) for flow, times in self.durations_us.items()}

    def service(self, org: str) -> Fraction:
        """Return the worker time that `org` got so far, per weight."""
        running = sum(
            min(self.now_us - began_us, takes_us)
            for attempt, began_us, takes_us in self.began.values()
            if attempt.pick.org == org
        )
        return Fraction(self.used_us[org] + running, self.world.config[org].weight)

    def eligible(self) -> set[str]:
        """Return the orgs that a free slot could go to."""
        return {org.org for org in self.world.scheduler.orgs.values() if org.may_run}

    def run(
        self,
        history: Iterable[Event | Round],
        look: Callable[[Timed, str | None], None],
    ) -> Timed:
        """Play `history`; call `look` whenever who is eligible may have changed, and before each
        admission with the org that is next.
        """
        for event in history:
            if isinstance(event, Round):
                self.now_us += event.pass_us
                look(self, None)
                self._settle()
                look(self, None)
                self._fill(look)
            else:
                self.world.run([event])
            look(self, None)
        return self

    def _settle(self) -> None:
        ended = [one for one in self.began.values() if self.now_us - one[1] >= one[2]]
        for attempt, _, takes_us in ended:
            self.used_us[attempt.pick.org] += takes_us
            del self.began[id(attempt)]
        self.world.end([(attempt, takes_us) for attempt, _, takes_us in ended])
        if self.refreshing:
            for attempt, began_us, _ in self.began.values():
                self.world.refresh(attempt, self.now_us - began_us)
            self.world.scheduler.wake()

    def _fill(self, look: Callable[[Timed, str | None], None]) -> None:
        for _ in range(self.slots - len(self.world.running)):
            first = next(self.world.scheduler.order(), None)
            if first is not None:
                look(self, first.org)
            self.world.run([Tick(1)])
            for attempt in self.world.running:
                if id(attempt) not in self.began:
                    takes_us = next(self._next[attempt.pick.org])
                    self.began[id(attempt)] = (attempt, self.now_us, takes_us)
        self.world.scheduler.close_round()


class Lags:
    """How far the service of two orgs drifts apart while both could be served, per pair.

    The worst over all sub-intervals of a joint interval is the running maximum less the running
    minimum of the difference, which restarts whenever one of the two drops out.
    """

    def __init__(self) -> None:
        self.drift: dict[tuple[str, str], tuple[Fraction, Fraction]] = {}

    def look(self, timed: Timed, present: set[str]) -> dict[tuple[str, str], Fraction]:
        """Return the worst drift of each pair that is present, up to now."""
        now = {}
        for f, g in combinations(sorted(present), 2):
            difference = timed.service(f) - timed.service(g)
            low, high = self.drift.get((f, g), (difference, difference))
            now[f, g] = (min(low, difference), max(high, difference))
        self.drift = now
        return {pair: high - low for pair, (low, high) in now.items()}


def largest_us(timed: Timed) -> int:
    """Return the largest cost of any task: taken, or believed before anything was measured."""
    return max([GUESS_US, *(us for times in timed.durations_us.values() for us in times)])


@st.composite
def timed_worlds(draw: st.DrawFn, *, refreshing: bool | None = None) -> Timed:
    """Draw a world of which each org has its own cycle of durations."""
    world = World(
        config={org: OrgConfig(draw(weights()), draw(caps())) for org in ORGS},
        workloads={name: WorkloadClass(share=1, rank=rank) for rank, name in enumerate(WORKLOADS)},
        cost_mode=CostMode.TIME,
    )
    times = st.lists(st.sampled_from(DURATIONS_US), min_size=1, max_size=6)
    return Timed(
        world,
        slots=draw(st.integers(1, 6)),
        durations_us={org: draw(times) for org in ORGS},
        refreshing=draw(st.booleans()) if refreshing is None else refreshing,
    )


def timed_histories() -> st.SearchStrategy[list[Event | Round]]:
    """Draw backlogs, then rounds at uneven times with arrivals between them."""
    arrive = st.builds(Arrive, orgs(), st.sampled_from(WORKLOADS), st.integers(1, 12))
    passing = st.sampled_from((1_000, 10_000, 250_000, 1_000_000, 3_000_000))
    opening: st.SearchStrategy[list[Event | Round]] = st.lists(arrive, min_size=3, max_size=8)
    rounds = st.builds(Round, passing)
    later: st.SearchStrategy[list[Event | Round]] = st.lists(
        st.one_of(rounds, rounds, rounds, arrive), min_size=15, max_size=60
    )
    return st.builds(lambda first, rest: first + rest, opening, later)
