"""How far ahead to claim: about as much as this worker does in a moment.

What is in a worker's line cannot be run by another one, and stands before every newcomer. So the
line is short for slow tasks, and for fast ones just long enough that claiming costs little.
"""

from __future__ import annotations

# Work to have in line, in time. A round trip and a claim take a few milliseconds.
AHEAD_S = 0.05
# The newest observation counts for this many older ones, at most.
_MEMORY = 20


class Pace:
    """Estimates the mean time a task holds a slot, and from it how many tasks fill a moment.

    Not from the rate of completions: that is low as well where too few tasks are claimed.
    """

    def __init__(self, slots: int, ahead_max: int) -> None:
        #: On so many slots its tasks run, at least.
        self.slots = slots
        self._ahead_max = ahead_max
        self._mean_s: float | None = None
        self._finished = 0
        self._busy_s = 0.0

    def observe(self, finished: int, busy_s: float) -> None:
        """Note how many tasks have finished so far, and for how long slots were held by them."""
        count, held_s = finished - self._finished, busy_s - self._busy_s
        if count <= 0:
            return
        self._finished, self._busy_s = finished, busy_s
        if self._mean_s is None:
            self._mean_s = held_s / count
        else:
            self._mean_s += (held_s / count - self._mean_s) * count / (count + _MEMORY)

    def stalled(self, waited_s: float) -> None:
        """Note that tasks waited in line for this long: whatever was seen, they are slow now."""
        self._mean_s = max(self._mean_s or 0.0, waited_s)

    def ahead(self) -> int:
        """Return how many tasks to have in line; none before the first was seen to finish."""
        if self._mean_s is None:
            return 0
        return int(min(self._ahead_max, self.slots * AHEAD_S / max(self._mean_s, 1e-9)))
