"""How often something may be done: token buckets."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

_BURST_S = 2.0
_BUCKETS_KEPT = 10_000


class Rates:
    """A token bucket for each name: `per_s` flow in, `_BURST_S` seconds of it are kept."""

    def __init__(self, per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, name: str) -> float:
        """Take one from the bucket and return 0, or return how long until there is one."""
        now, full = self._clock(), self._per_s * _BURST_S
        left, at = self._buckets.get(name, (full, now))
        left = min(full, left + (now - at) * self._per_s)
        taken = left >= 1
        self._buckets[name] = (left - 1 if taken else left, now)
        self._buckets.move_to_end(name)
        if len(self._buckets) > _BUCKETS_KEPT:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1 - left) / self._per_s
