"""What one benchmark found: numbers by case, system and metric, the bars, and what was noticed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.estimates import Bar, Estimate

# How every benchmark calls this product as a system.
OURS = "ours"


class Key(NamedTuple):
    """What a number is of: the case ("16 clients one by one"), the system ("raw"), the metric
    with its unit ("tasks/s").
    """

    case: str
    system: str
    metric: str


class Result(NamedTuple):
    """Everything one benchmark has to say; `setting` tells how it was measured, for readers."""

    name: str
    title: str
    setting: str
    measures: Mapping[Key, Estimate]
    bars: Sequence[Bar]
    # Peers that could not run and why, surprises, what the figures do not show.
    notes: Sequence[str] = ()
