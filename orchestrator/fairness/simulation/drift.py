"""The worst lag between two orgs over *every* interval in which both were eligible, not a grid.

Within such an interval the worst over all its parts is the highest less the lowest value that the
difference of the two services had: one running pair of numbers, begun anew when one of the two
drops out. Service grows evenly between events, so looking at events misses nothing. An event costs
O(parties): meant for a handful.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Drift(NamedTuple):
    """The worst lag seen between two parties, by weight."""

    one: int
    other: int
    lag: float


class Drifts:
    """Service by weight of a few parties, and the worst lag of each pair."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = list(weights)
        count = len(self.weights)
        self._service = [0.0] * count
        self._running = [0] * count
        self._at = [0] * count
        self._present: set[int] = set()
        self._low = [[0.0] * count for _ in range(count)]
        self._high = [[0.0] * count for _ in range(count)]
        self._worst = [[0.0] * count for _ in range(count)]

    def serve(self, party: int, amount: float, now: int) -> None:
        """Note service given at once, such as one admission."""
        self._settle(party, now)
        self._service[party] += amount / self.weights[party]
        self._look(party, now)

    def run(self, party: int, more: int, now: int) -> None:
        """Note that `more` tasks of `party` run from `now` on; negative where they ended."""
        self._look(party, now)
        self._running[party] += more

    def enter(self, party: int, now: int) -> None:
        """Note that `party` is eligible from `now` on."""
        self._settle(party, now)
        for other in self._present:
            one, two = sorted((party, other))
            drift = self._value(one, now) - self._value(two, now)
            self._low[one][two] = self._high[one][two] = drift
        self._present.add(party)

    def leave(self, party: int, now: int) -> None:
        """Note that `party` is not eligible any more."""
        self._look(party, now)
        self._present.discard(party)

    def reweigh(self, party: int, weight: float, now: int) -> None:
        """Change a weight; a lag is compared within one weight only, so its intervals end here."""
        self._look(party, now)
        self.weights[party] = weight
        if party in self._present:
            self._present.discard(party)
            self.enter(party, now)

    def worst(self, now: int) -> Iterator[Drift]:
        """Yield the worst lag of each pair that ever was eligible together and drifted."""
        for party in list(self._present):
            self._look(party, now)
        for one, row in enumerate(self._worst):
            for other, lag in enumerate(row):
                if lag > 0:
                    yield Drift(one, other, lag)

    def _value(self, party: int, now: int) -> float:
        elapsed = self._running[party] * (now - self._at[party])
        return self._service[party] + elapsed / self.weights[party]

    def _settle(self, party: int, now: int) -> float:
        value = self._service[party] = self._value(party, now)
        self._at[party] = now
        return value

    def _look(self, party: int, now: int) -> None:
        """Bring the drifts of `party` against all that are present up to date."""
        value = self._settle(party, now)
        if party not in self._present:
            return
        for other in self._present:
            if other < party:
                one, two, drift = other, party, self._value(other, now) - value
            elif other > party:
                one, two, drift = party, other, value - self._value(other, now)
            else:
                continue
            if drift < self._low[one][two]:
                self._low[one][two] = drift
            elif drift > self._high[one][two]:
                self._high[one][two] = drift
            else:
                continue
            lag = self._high[one][two] - self._low[one][two]
            if lag > self._worst[one][two]:
                self._worst[one][two] = lag
