"""Turns between the flows of one org: how many tasks of each fit into what the org may still take.

Each flow is a run of start tags, one charge apart; the smallest goes next. So what went by the time
that the org's own virtual time reached some tag is a division for each flow, and the tag at which
the room is used up is found by halving: O(flows x log of the tags), whatever the backlogs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Run(NamedTuple):
    """The start tags `tag`, `tag + charge`, … of `tasks` tasks, each of which takes `price`."""

    tag: int
    charge: int
    price: int
    tasks: int

    def below(self, tag: int) -> int:
        """Return how many of its start tags lie below `tag`."""
        return min(self.tasks, max(0, -((self.tag - tag) // self.charge)))


def spread(runs: Sequence[Run], room: int) -> list[int]:
    """Return how many tasks of each run start before `room` is used up.

    A task starts while any room is left, so the last one may take more than there is. Of equal tags
    those of the earlier run go first.
    """
    if room <= 0:
        return [0] * len(runs)
    if len(runs) == 1:
        return [min(runs[0].tasks, -(-room // runs[0].price))]
    if _price(runs, whole := [run.tasks for run in runs]) < room:
        return whole
    # The highest tag below which what went leaves room; all of it lies between these two.
    low = min(run.tag for run in runs)
    high = max(run.tag + run.charge * run.tasks for run in runs)
    while high - low > 1:
        middle = (low + high) // 2
        if _price(runs, [run.below(middle) for run in runs]) < room:
            low = middle
        else:
            high = middle
    counts = [run.below(low) for run in runs]
    left = room - _price(runs, counts)
    for place, run in enumerate(runs):
        if left > 0 and counts[place] < run.below(low + 1):
            counts[place] += 1
            left -= run.price
    return counts


def _price(runs: Sequence[Run], counts: Sequence[int]) -> int:
    return sum(run.price * count for run, count in zip(runs, counts, strict=True))
