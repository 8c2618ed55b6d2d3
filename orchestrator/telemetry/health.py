"""Whether this process lives and is ready, as its own loops last said.

*Live* is a process whose loops turn. One whose loop waits for an answer of the database, or for a
connection, turns as far as it can: to restart it would bring no database back, so that is no
failure. A standby is as live as a leader.

*Ready* is a process whose loops turn and last found what they need: a replica the database with a
schema that fits, a worker the queues that it claims from. Nothing is asked when a probe comes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.log import hidden

# A turn takes a second at most where all is well. Longer than what a loop may wait for besides
# the database: names to be resolved, a pause after a refusal.
TURN_MAX_S = 30.0
_STARTING = "starting"


class Loop:
    """One loop of this process: when it turned last, and what kept it from its work.

    Its methods are called by the thread that turns; each is an assignment.
    """

    def __init__(
        self, name: str, limit_s: float, awaits: Callable[[], bool], clock: Callable[[], float]
    ) -> None:
        self.name = name
        self.limit_s = limit_s
        # Why it is not ready, None if it is.
        self.trouble: str | None = _STARTING
        self._awaits = awaits
        self._clock = clock
        self._connecting = False
        self._turned_at = clock()

    def turn(self) -> None:
        """Note that the loop turned."""
        self._turned_at = self._clock()

    def works(self) -> None:
        """Note that the loop turned and found what it needs."""
        self.trouble = None
        self._turned_at = self._clock()

    def fails(self, error: BaseException) -> None:
        """Note that the loop turned and did not find what it needs."""
        first, _, _ = str(error).strip().partition("\n")
        self.trouble = hidden(first) or type(error).__name__
        self._turned_at = self._clock()

    @contextmanager
    def connecting(self) -> Iterator[None]:
        """Excuse the loop while it waits for a connection."""
        self._connecting = True
        try:
            yield
        finally:
            self._connecting = False
            self.turn()

    def silent_s(self) -> float:
        """Return how long ago it turned."""
        return self._clock() - self._turned_at

    def stalled(self) -> str | None:
        """Return what a loop that has not turned for too long is told by, None if it turns."""
        silent_s = self.silent_s()
        if silent_s <= self.limit_s:
            return None
        return f"{self.name} has not turned for {silent_s:.0f} s"

    @property
    def waits(self) -> bool:
        """Tell whether it waits for the database at this moment."""
        return self._connecting or self._awaits()


class Health:
    """The loops of one process. Any thread may ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._loops: dict[str, Loop] = {}
        self._draining = False

    def loop(
        self,
        name: str,
        limit_s: float = TURN_MAX_S,
        awaits: Callable[[], bool] = lambda: False,
    ) -> Loop:
        """Watch a loop from now on; `awaits` tells whether it waits for the database just now."""
        loop = Loop(name, limit_s, awaits, self._clock)
        with self._lock:
            self._loops[name] = loop
        return loop

    def forget(self, loop: Loop) -> None:
        """Watch this loop no longer: it ended in an orderly way."""
        with self._lock:
            if self._loops.get(loop.name) is loop:
                del self._loops[loop.name]

    def drain(self) -> None:
        """Note that the process takes nothing new: it is not ready any more, but lives."""
        self._draining = True

    def live(self) -> list[str]:
        """Return why this process does not live; nothing if it does."""
        stalled = [loop.stalled() for loop in self._watched() if not loop.waits]
        return [reason for reason in stalled if reason is not None]

    def ready(self) -> list[str]:
        """Return why this process is not ready; nothing if it is."""
        if self._draining:
            return ["draining"]
        loops = self._watched()
        if not loops:
            return [_STARTING]
        reasons = []
        for loop in loops:
            if (stalled := loop.stalled()) is not None:
                waits = ", waiting for the database" if loop.waits else ""
                reasons.append(stalled + waits)
            elif loop.trouble is not None:
                reasons.append(f"{loop.name}: {loop.trouble}")
        return reasons

    def _watched(self) -> list[Loop]:
        with self._lock:
            return list(self._loops.values())
