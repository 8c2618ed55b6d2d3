"""The ready window: how much admitted, unclaimed work to keep in front of the workers.

Short, so that the order of admission is the order of service: whatever is ready already stands
before a newcomer. Long enough that no worker finds the queue empty between two ticks.
"""

from __future__ import annotations

import math

# Half of the memory of the busiest recent tick is gone after this long.
_HALF_LIFE_S = 0.5
_HEADROOM = 1.5
# Enough for a few workers whose sessions are not announced; below kappa, the default of which is
# 100.
WINDOW_MIN = 32
WINDOW_MAX = 4_000


class Window:
    """About 1.5 times the claims of a tick, at least the concurrency of the parked workers."""

    def __init__(self) -> None:
        self.parked = 0
        self._claims = 0.0

    def observe(self, claims: int, elapsed_s: float) -> None:
        """Note how many tasks were claimed since the last tick, `elapsed_s` ago."""
        faded = self._claims * 0.5 ** (elapsed_s / _HALF_LIFE_S)
        self._claims = max(float(claims), faded)

    def size(self, ready_max: int | None) -> int:
        """Return how many ready tasks there should be; never more than the queue's `ready_max`."""
        wanted = max(WINDOW_MIN, self.parked, math.ceil(_HEADROOM * self._claims))
        return min(wanted, WINDOW_MAX if ready_max is None else ready_max)
