"""One exposition out of several sources: this process, its figures, its child process.

A name may come from more than one of them. The format wants each name once, so families of one name
are joined, and values of the same labels added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.samples import Sample


class Merged(CollectorRegistry):
    """Collects from sources, each name once."""

    def __init__(self, collects: Sequence[Callable[[], Iterable[Metric]]]) -> None:
        super().__init__(auto_describe=False)
        self._collects = collects

    def collect(self) -> Iterable[Metric]:
        """Yield the joined families, without those that have no values and creation times."""
        families: dict[str, Metric] = {}
        values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], Sample]] = {}
        for collect in self._collects:
            for family in collect():
                families.setdefault(family.name, family)
                mine = values.setdefault(family.name, {})
                for sample in family.samples:
                    if sample.name.endswith("_created"):
                        continue
                    key = (sample.name, tuple(sorted(sample.labels.items())))
                    before = mine.get(key)
                    mine[key] = sample if before is None else _sum(before, sample)
        for name, family in families.items():
            if values[name]:
                joined = Metric(name, family.documentation, family.type, family.unit)
                joined.samples = list(values[name].values())
                yield joined


def _sum(one: Sample, other: Sample) -> Sample:
    return one._replace(value=one.value + other.value)
