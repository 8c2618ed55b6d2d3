"""The measures of a result as tables that fit a page: a row for each case and system."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.estimates import Estimate
from benchmarks.speed.result import Key, Result
from benchmarks.text import interval, number

# Beyond this, a table is too wide to read, and each measure has a row of its own.
_COLUMNS_MAX = 5


class Table(NamedTuple):
    """Texts in columns; the first `names` of them name things, the others hold numbers."""

    names: int
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(slots=True)
class _Group:
    """Rows of one table. What several systems have is told apart from what one alone has."""

    shared: bool
    metrics: set[str]
    keys: list[Key] = field(default_factory=list)

    def fits(self, shared: bool, metrics: set[str]) -> bool:
        """Tell whether a row with these metrics leaves no column of it or of the others empty."""
        return self.shared == shared and (self.metrics <= metrics or metrics <= self.metrics)


def tables(result: Result) -> list[Table]:
    """Return the tables of `result`: those of which the same is known share one."""
    groups: list[_Group] = []
    for (shared, _, _), keys in _rows(result).items():
        metrics = {key.metric for key in keys}
        group = next((each for each in groups if each.fits(shared, metrics)), None)
        if group is None:
            groups.append(group := _Group(shared, metrics))
        group.metrics |= metrics
        group.keys += keys
    order = list(dict.fromkeys(key.metric for key in result.measures))
    return [
        _table(result.measures, sorted(group.metrics, key=order.index), group.keys)
        for group in groups
    ]


def _rows(result: Result) -> Mapping[tuple[bool, str, str], list[Key]]:
    """Return the keys by whether other systems have the metric too, by case and by system."""
    systems: dict[str, set[str]] = {}
    for key in result.measures:
        systems.setdefault(key.metric, set()).add(key.system)
    rows: dict[tuple[bool, str, str], list[Key]] = {}
    for key in result.measures:
        row = (len(systems[key.metric]) > 1, key.case, key.system)
        rows.setdefault(row, []).append(key)
    return rows


def _table(measures: Mapping[Key, Estimate], metrics: Sequence[str], keys: Iterable[Key]) -> Table:
    if len(metrics) > _COLUMNS_MAX:
        rows = [[key.case, key.system, key.metric, _text(measures[key])] for key in keys]
        return Table(3, ["case", "system", "measure", "measured"], rows)
    pairs = dict.fromkeys((key.case, key.system) for key in keys)
    rows = [
        [case, system, *(_text(measures.get(Key(case, system, metric))) for metric in metrics)]
        for case, system in pairs
    ]
    return Table(2, ["case", "system", *metrics], rows)


def _text(found: Estimate | None) -> str:
    """Return the middle, and the interval where there is one; nothing for nothing."""
    if found is None:
        return ""
    if found.low == found.high:
        return number(found.mean)
    return f"{number(found.mean)} ({interval(found)})"
