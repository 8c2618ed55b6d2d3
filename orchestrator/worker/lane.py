"""One line of claimed tasks, and what is known of those that left it: ordinary or express work."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from orchestrator.worker.job import Job


class Lanes(NamedTuple):
    """A number of tasks for each lane."""

    main: int
    express: int


class Lane:
    """A line; guarded by the buffer's lock, but for the counts, which only grow."""

    __slots__ = ("awaited", "busy_s", "finished", "line", "running")

    def __init__(self) -> None:
        self.line: deque[Job] = deque()
        self.running = 0
        # How many have finished so far, and for how long slots were held by them.
        self.finished = 0
        self.busy_s = 0.0
        # How long the line was to be when it was found long enough; None = nobody waits for room.
        self.awaited: int | None = None

    def wanted(self, free: int, ahead: int) -> int:
        """Return how many tasks to claim so that no free slot waits and about `ahead` are in line;
        0 while more than half of that is there.
        """
        wanted = 0
        if len(self.line) <= ahead // 2:
            wanted = max(free, ahead) - len(self.line)
        self.awaited = ahead if wanted <= 0 else None
        return max(0, wanted)

    def has_room(self, free: int) -> bool:
        """Tell, once, that `wanted` was 0 and would not be any more; for who waits for room."""
        awaited = self.awaited or 0
        if len(self.line) > awaited // 2 or not (awaited or free > 0):
            return False
        self.awaited = None
        return True
