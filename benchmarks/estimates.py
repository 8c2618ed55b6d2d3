"""What was measured, with its interval, and the bars that it is held against."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

_RESAMPLES = 2_000
_CONFIDENCE = 0.95


class Sample(NamedTuple):
    """One number of one seed: of which case, under which rule, and what it is."""

    case: str
    rule: str
    metric: str
    value: float


class Estimate(NamedTuple):
    """The mean (or the median, where said) of `of` values, its 95% interval, and the largest."""

    of: int
    mean: float
    low: float
    high: float
    worst: float


class Key(NamedTuple):
    """What an estimate is of."""

    case: str
    rule: str
    metric: str


Measures = Mapping[Key, Estimate]


class Bar(NamedTuple):
    """What a measure must reach: at most `limit`, or at least it where `at_least`.

    It is missed only where the whole interval misses it.
    """

    name: str
    measured: Estimate
    limit: float
    at_least: bool = False
    # What is known about a miss.
    why: str = ""

    @property
    def passed(self) -> bool:
        """Tell whether some part of the interval reaches the bar."""
        if self.at_least:
            return self.measured.high >= self.limit
        return self.measured.low <= self.limit

    @property
    def wanted(self) -> str:
        """Return the bar as text."""
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}"


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of `values` with a percentile bootstrap interval, the same at each call."""
    dice = random.Random(len(values))
    means = sorted(statistics.fmean(dice.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    tail = round((1 - _CONFIDENCE) / 2 * _RESAMPLES)
    return Estimate(
        len(values), statistics.fmean(values), means[tail], means[-1 - tail], max(values)
    )


def median(values: Sequence[float]) -> Estimate:
    """Return the median of `values` with a percentile bootstrap interval, the same at each call."""
    dice = random.Random(len(values))
    medians = sorted(
        statistics.median(dice.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    tail = round((1 - _CONFIDENCE) / 2 * _RESAMPLES)
    return Estimate(
        len(values), statistics.median(values), medians[tail], medians[-1 - tail], max(values)
    )


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Return the median of the ratios of pairs that were measured one right after the other."""
    return median([mine / other for mine, other in zip(ours, theirs, strict=True)])


def exact(value: float) -> Estimate:
    """Return a number that is no mean, such as a count or a maximum: its interval is itself."""
    return Estimate(1, value, value, value, value)


def collected(by_seed: Iterable[Iterable[Sample]]) -> dict[Key, Estimate]:
    """Return the estimate of each measure over the seeds that have it."""
    values: dict[Key, list[float]] = {}
    for samples in by_seed:
        for sample in samples:
            key = Key(sample.case, sample.rule, sample.metric)
            values.setdefault(key, []).append(sample.value)
    return {key: estimate(found) for key, found in values.items()}


class Series(NamedTuple):
    """One line or group of bars of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


class Experiment(NamedTuple):
    """What is measured once for each seed, and the bars it is held against."""

    code: str
    title: str
    setting: str
    sample: Callable[[int, bool], list[Sample]]
    bars: Callable[[Measures], list[Bar]] = lambda _: []
