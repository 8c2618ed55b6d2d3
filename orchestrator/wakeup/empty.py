"""The empty-claim fast path: whoever polls an empty queue is told so without a statement.

Only one thing is remembered of a queue: that nothing in it was claimable. Such a *verdict* carries
the version of the queue that was read before the look which found nothing, and is trusted only
while the version is still the same. Who makes work claimable moves the version on. That is one
place, the leader's tick: retries, releases, lost leases, promotions, resumed orgs and raised caps
all pass admission again, and nothing ever takes a claim off a row.

What can happen between a look and an admission::

    poll                                   leader
    1  version(queue) -> v
    2  claim: nothing; none is there
                                           3  commit: a task is claimable
                                           4  bump: the version is v + 1
    5  mark_empty(queue, v)                   void from the start: v is not v + 1

- 3 before 2: the claim finds the task. 3 after 2: so is 4, and 4 is after 1. Whether 5 comes before
  4 or after it, the verdict is void from 4 on. Were the version read after the look, or marked with
  the one in force at 5, the verdict would hide the task: that is the mistake this order is for.
- Between 3 and 4 an older verdict still says "nothing". The notification of 3 rides in its commit,
  so it can come first: whoever hears it looks, whatever the verdict says (`server.claiming`).
- The claim passes over rows that other transactions hold. Were they rolled back, the rows would be
  claimable again and nobody would say so. Hence the second half of 2: a verdict is given only where
  a later statement sees no unclaimed row at all, held or not.
- A bump that is lost, because its sender crashed between 3 and 4 or the store did not answer, costs
  as long as the verdict may live: `VERDICT_TTL_MAX_S`. The next leader bumps when its term begins.

A verdict spares a look and is never more than a hint. Whatever is missing, old, malformed or slow
reads as "not known to be empty", and nothing here raises.
"""

from __future__ import annotations

from typing import Protocol

# What a lost bump costs at most, whatever is configured.
VERDICT_TTL_MAX_S = 30.0
VERDICT_TTL_MIN_S = 0.1


class Verdicts(Protocol):
    """Where verdicts are kept. No method raises, and none takes longer than its store's budget."""

    async def is_empty(self, queue: int) -> bool:
        """Tell whether the queue is known to be empty; False where that is not known."""
        ...

    async def version(self, queue: int) -> int | None:
        """Return the version to mark the queue empty with, read before the look; None = do not."""
        ...

    async def mark_empty(self, queue: int, version: int) -> None:
        """Note that a look which began after `version` was read found nothing in the queue."""
        ...


def clamped(ttl_s: float) -> float:
    """Return how long a verdict may live: what was asked for, within bounds."""
    return min(VERDICT_TTL_MAX_S, max(VERDICT_TTL_MIN_S, ttl_s))
