"""The verdicts of one process, kept right by what its `Ear` hears.

Every notification on a queue's channel moves the queue's version on. A notification can be lost
only with the session that listens, so a verdict is trusted for `TRUST_S` after the last proof that
the session lives, and whenever a session begins to listen all versions move on: nobody knows what
was notified before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from orchestrator.wakeup.empty import VERDICT_TTL_MAX_S, clamped

# How long what was heard stays true after the last proof that we would hear.
TRUST_S = 1.0


class _Verdict(NamedTuple):
    version: int
    until: float


class Heard:
    """Verdicts in memory, for one event loop."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        verdict_ttl_s: float = VERDICT_TTL_MAX_S,
    ) -> None:
        self.clock = clock
        self._ttl_s = clamped(verdict_ttl_s)
        # Of the queues that are listened for; no queue keeps a version beyond its session.
        self._versions: dict[int, int] = {}
        self._last = 0
        self._verdicts: dict[int, _Verdict] = {}
        self._proved_at = float("-inf")

    def listening(self, queue: int) -> None:
        """Note that from now on we hear of this queue; what was notified before is unknown."""
        # Never a version that was in force before: a look of then must not mark with it.
        self._last += 1
        self._versions[queue] = self._last

    def bump(self, queue: int) -> None:
        """Note that something became claimable."""
        if queue in self._versions:
            self.listening(queue)

    def proved(self, at: float) -> None:
        """Note that the session lived at this moment, on this object's clock."""
        self._proved_at = max(self._proved_at, at)

    def deaf(self) -> None:
        """Note that the session is gone."""
        self._versions.clear()
        self._verdicts.clear()
        self._proved_at = float("-inf")

    @property
    def trusted(self) -> bool:
        """Tell whether we would have heard."""
        return self.clock() - self._proved_at <= TRUST_S

    def hears(self, queue: int) -> bool:
        """Tell whether notifications of this queue reach us, as far as is proved."""
        return queue in self._versions and self.trusted

    async def is_empty(self, queue: int) -> bool:
        """Tell whether the queue is known to be empty."""
        verdict = self._verdicts.get(queue)
        return (
            verdict is not None
            and verdict.version == self._versions.get(queue)
            and self.clock() < verdict.until
            and self.trusted
        )

    async def version(self, queue: int) -> int | None:
        """Return the version to mark with, None while nothing is heard of this queue."""
        return self._versions.get(queue)

    async def mark_empty(self, queue: int, version: int) -> None:
        """Note that a look which began after `version` was read found nothing."""
        if version == self._versions.get(queue):
            self._verdicts[queue] = _Verdict(version, self.clock() + self._ttl_s)
