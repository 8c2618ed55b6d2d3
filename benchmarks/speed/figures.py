"""Which figures there are, and what each of them shows.

A figure takes what it needs from a result file by the names that its benchmark gives to cases and
metrics; where some are not there, for example because a peer was not, less is drawn or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import charts
from benchmarks.estimates import Series
from benchmarks.speed import drain, inflight, latency, noisy, orgs, xmin
from benchmarks.speed.record import Record
from benchmarks.speed.result import OURS, Key, Result

_BY_HAND = ("raw", "staged", "seed-shape")


class Figure(NamedTuple):
    """A figure: its file below `figures/`, and what it shows in words."""

    file: str
    title: str


class _Value(NamedTuple):
    key: Key
    value: float

    @property
    def peer(self) -> str:
        """Return the system without its configuration."""
        return self.key.system.partition(",")[0]


def draw(folder: Path, records: Sequence[Record]) -> dict[str, list[Figure]]:
    """Write the figures of `records` into `folder`; return those of each benchmark by name."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[Figure]] = {}
    for record in records:
        result = record.result
        if result.name not in _FIGURES:
            continue
        title, drawing = _FIGURES[result.name]
        path = folder / f"speed-{result.name}.svg"
        if drawing(path, title, result):
            drawn[result.name] = [Figure(path.name, title)]
        else:
            path.unlink(missing_ok=True)
    return drawn


def _found(result: Result, metric: str, case: str | None = None) -> Iterator[_Value]:
    """Yield the finite values of a metric in one case, or in all."""
    for key, found in result.measures.items():
        if key.metric == metric and case in (None, key.case) and math.isfinite(found.mean):
            yield _Value(key, found.mean)


def _ordered(names: Mapping[str, float]) -> list[str]:
    """Return ours, then what was written by hand, then the others by their value, ascending."""
    ranks = {OURS: 0, **dict.fromkeys(_BY_HAND, 1)}
    return sorted(names, key=lambda name: (ranks.get(name.partition(",")[0], 2), names[name]))


def _drain(path: Path, title: str, result: Result) -> bool:
    """Draw the rates of the fast configurations; of two measurements, the one beside ours."""
    one: dict[str, float] = {}
    two: dict[str, float] = {}
    for rates, case in (
        (one, drain.ONE),
        (one, drain.BESIDE),
        (two, drain.TWO),
    ):
        fast = [each for each in _found(result, drain.RATE, case) if ", fast" in each.key.system]
        rates.update({each.peer: each.value for each in fast})
    if not one:
        return False
    names = _ordered({name: -rate for name, rate in one.items()})
    groups: dict[str, list[float | None]] = {drain.ONE: [one[name] for name in names]}
    if two:
        # Some have been measured with one process only.
        groups[drain.TWO] = [two.get(name) for name in names]
    charts.levels(path, title, "tasks/s", names, groups)
    return True


def _latency(path: Path, title: str, result: Result) -> bool:
    """Draw both percentiles of each in its better configuration."""
    p50: dict[str, _Value] = {}
    for case in (latency.FIRST, latency.BESIDE):
        best: dict[str, _Value] = {}
        for each in _found(result, latency.P50, case):
            best[each.peer] = min(each, best.get(each.peer, each), key=lambda found: found.value)
        p50.update(best)
    if not p50:
        return False
    names = _ordered({name: found.value for name, found in p50.items()})
    p99 = [result.measures.get(p50[name].key._replace(metric=latency.P99)) for name in names]
    groups: dict[str, list[float | None]] = {
        "median": [p50[name].value for name in names],
        "99th percentile": [found.mean if found else None for found in p99],
    }
    charts.levels(path, title, "ms (logarithmic)", names, groups, logarithmic=True)
    return True


def _noisy(path: Path, title: str, result: Result) -> bool:
    """Draw how many tasks went first; who was given a smaller backlog is named with it."""
    ahead = {each.key: each.value for each in _found(result, noisy.AHEAD)}
    if not ahead:
        return False
    backlog = {each.key.system: each.value for each in _found(result, noisy.LEFT)}
    most = max(backlog.values(), default=0.0)
    shown: dict[str, float | None] = {}
    for key, value in ahead.items():
        of = backlog.get(key.system, most)
        name = key.system if of == most else f"{key.system}, of {of:,.0f}"
        shown[name] = value
    names = _ordered(dict.fromkeys(shown, 0.0))
    label = f"tasks of another org's {most:,.0f} (logarithmic)"
    charts.levels(
        path, title, label, names, {"": [shown[name] for name in names]}, logarithmic=True
    )
    return True


def _xmin(path: Path, title: str, result: Result) -> bool:
    """Draw the rate of each tenth against that of the first."""
    rates: dict[str, dict[int, float]] = {}
    for case in (xmin.HELD, xmin.FREE):
        for part in range(1, xmin.DECILES + 1):
            for each in _found(result, xmin.RATE, xmin.decile_case(case, part)):
                rates.setdefault(f"{each.peer}, {case}", {})[part] = each.value
    lines = {
        name: [(float(part), 100 * rate / by_part[1]) for part, rate in sorted(by_part.items())]
        for name, by_part in rates.items()
        if by_part.get(1)
    }
    if not lines:
        return False
    labels = {float(part): str(part) for part in range(1, xmin.DECILES + 1)}
    charts.lines(
        path, title, "tenth of the tasks", "rate, % of the first tenth", _series(lines), labels
    )
    return True


def _inflight(path: Path, title: str, result: Result) -> bool:
    """Draw the rate behind leased tasks against that with none."""
    found: dict[str, dict[int, float]] = {}
    for each in _found(result, inflight.AGAINST_NONE):
        leased = int(each.key.case.partition(" ")[0].replace(",", ""))
        found.setdefault(each.peer, {0: 100.0})[leased] = 100 * each.value
    levels = sorted({leased for by_leased in found.values() for leased in by_leased})
    if not found:
        return False
    lines = {
        name: [(float(levels.index(leased)), rate) for leased, rate in sorted(by_leased.items())]
        for name, by_leased in found.items()
    }
    labels = {float(place): f"{leased:,}" for place, leased in enumerate(levels)}
    charts.lines(
        path, title, "leased tasks in front", "rate, % of that with none", _series(lines), labels
    )
    return True


def _orgs(path: Path, title: str, result: Result) -> bool:
    """Draw the time of a tick by the number of orgs."""
    lines: dict[str, list[tuple[float, float]]] = {}
    cases: list[str] = []
    for metric, name in ((orgs.P99, "99th percentile"), (orgs.P50, "median")):
        values = list(_found(result, metric))
        cases = cases or [each.key.case for each in values]
        lines[name] = [(float(cases.index(each.key.case)), each.value) for each in values]
    if not cases:
        return False
    labels = {float(place): case.removesuffix(" orgs") for place, case in enumerate(cases)}
    series = [Series(name, points, name != "median") for name, points in lines.items()]
    charts.lines(path, title, "orgs with a backlog", "ms", series, labels)
    return True


def _series(lines: Mapping[str, Sequence[tuple[float, float]]]) -> list[Series]:
    """Return lines in the order of drawing: ours as it is comes last, on top of the others."""
    top = next((name for name in lines if name.partition(",")[0] == OURS), None)
    series = [Series(name, points, name != top) for name, points in lines.items()]
    return sorted(series, key=lambda line: not line.dashed)


_FIGURES: Mapping[str, tuple[str, Callable[[Path, str, Result], bool]]] = {
    "drain": ("Tasks per second, from staged to done; others in their fast configuration", _drain),
    "latency": ("From enqueue to start on an idle system, in the better configuration", _latency),
    "noisy": ("What starts before the last of ten tasks that come behind a backlog", _noisy),
    "inflight": ("Rate behind leased tasks", _inflight),
    "xmin": ("Rate while another session holds a snapshot", _xmin),
    "orgs": ("Time of a tick with as many admissions", _orgs),
}
