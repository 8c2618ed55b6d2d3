"""One queue as a worker's fetcher sees it: claim from it, know when it is worth another look.

Ordinary and express work are looked for at times of their own, because a worker whose ordinary
slots are taken goes on to look for express work. A claim that asks for ordinary tasks takes express
ones along, so that the two together cost no more than one where nothing is to be had.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from uuid import UUID

from orchestrator.fairness.slots import reserve_of
from orchestrator.model import AttemptStatus, Claim
from orchestrator.store import queue as store
from orchestrator.store.names import MAIN_MIN
from orchestrator.store.queue import Ending, Quota
from orchestrator.telemetry import metrics
from orchestrator.worker.lane import Lanes
from orchestrator.worker.session import Session

# First pause of a queue that gave nothing, without notifications; it doubles up to `poll_max_s`.
POLL_MIN_S = 0.05
# Tasks of one claim, whatever the concurrency: it bounds the statement.
CLAIM_MAX = 500
# Notifications do not say of which kind the work is: while none of it is express, a worker that has
# slots for nothing else looks no sooner than this after the last time, doubling between the two.
EXPRESS_GAP_MIN_S, EXPRESS_GAP_MAX_S = 0.005, 0.05
# So many names of claims are made at once: made one by one, by a process that has just slept each
# time, a name takes ten times as long.
_IDS = 16
# How often to read how many slots are kept for express work.
_LEARN_S = 30.0


class Turn:
    """When to look again, and for how long nothing was found."""

    __slots__ = ("look_at", "pause_s")

    def __init__(self) -> None:
        self.look_at = 0.0
        self.pause_s = 0.0

    def rest(self, longest_s: float, shortest_s: float = POLL_MIN_S) -> None:
        """Do not look for a while: longer each time, up to `longest_s`."""
        self.pause_s = min(longest_s, max(shortest_s, 2 * self.pause_s))
        self.look_at = time.monotonic() + self.pause_s


class Source:
    """One queue: when to look at it, and how many tasks to ask it for."""

    def __init__(self, queue: int, name: str, *, lease_s: float, worker: str) -> None:
        self.queue = queue
        self.name = name
        self._lease_s = lease_s
        self._worker = worker
        self._main = Turn()
        self._express = Turn()
        # For express work alone: the last gap, and before when not to look, whatever is notified.
        self._gap_s = 0.0
        self._quiet_until = 0.0
        self._limit = CLAIM_MAX
        # The part of the slots that the queue keeps for express work (None = a tenth), and when to
        # read that again.
        self._part: float | None = 0.0
        self._learn_at = 0.0
        # The last claim gave few tasks, or none: so will the next.
        self._few = True
        self._ids = _random_ids()
        # A claim whose answer was lost: it may have leased tasks that nobody knows of.
        self._doubtful: UUID | None = None
        metrics.NAMES[queue] = name
        # From 0, so that a first one is seen as a rise.
        for counter in (
            metrics.CLAIMS,
            metrics.CLAIM_FAILURES,
            metrics.EXTEND_FAILURES,
            metrics.LEASES_LOST,
            metrics.RETRIES,
            metrics.DEAD_LETTERS,
        ):
            counter.labels(name)

    def learn(self, session: Session) -> bool:
        """Read what to keep for express work, if that is due; return whether it was."""
        if time.monotonic() < self._learn_at:
            return False
        self._part = session.run(store.express_part(self.queue))
        self._learn_at = time.monotonic() + _LEARN_S
        return True

    def reserve(self, slots: int) -> int:
        """Return how many of a worker's slots to keep for express work of this queue."""
        if not self._part:
            return reserve_of(slots, None if self._part is None else 0)
        return reserve_of(slots, max(1, round(slots * self._part)))

    def quota(self, room: Lanes) -> Quota | None:
        """Return what to ask for now; None while the queue is to be left alone."""
        now = time.monotonic()
        main = room.main if self._main.look_at <= now else 0
        express = room.express if main or self._express.look_at <= now else 0
        limit = min(max(main, express), self._limit)
        return Quota(limit, min(main, limit), min(express, limit)) if limit else None

    def look_at(self, room: Lanes) -> float:
        """Return when there will be a quota for this room, which is not empty."""
        return min(
            self._main.look_at if room.main else float("inf"),
            self._express.look_at if room.express else float("inf"),
        )

    def look_again(self) -> None:
        """Look as soon as may be: something was notified."""
        self._main.look_at = 0.0
        self._express.look_at = min(self._express.look_at, self._quiet_until)

    def claim(self, session: Session, quota: Quota) -> list[Claim]:
        """Claim what the quota allows, or less."""
        self._doubtful = claim_id = next(self._ids)
        claims: list[Claim] = session.run(
            store.take(
                self.queue,
                self.name,
                claim_id,
                quota=quota,
                lease_s=self._lease_s,
                worker=self._worker,
                few=self._few,
            )
        )
        self._doubtful = None
        return claims

    def settle_doubt(self, session: Session) -> list[Ending]:
        """Look what a claim of unknown outcome took; return its tasks as released."""
        if self._doubtful is None:
            return []
        claim_id = self._doubtful
        taken = session.run(store.leased_keys(self.queue, claim_id))
        self._doubtful = None
        return [Ending(key, claim_id, AttemptStatus.RELEASED, cost_us=0) for key in taken]

    def gave(
        self,
        quota: Quota,
        claims: Sequence[Claim],
        *,
        longest_s: float,
        heard: bool,
        suspects: bool,
    ) -> None:
        """Note what a claim gave: where that was less than asked for, leave the queue alone.

        `heard` says that notifications come. After a suspect ask for little, then for more again:
        what a suspect does not run beside is given back.
        """
        self._limit = 1 if suspects else min(CLAIM_MAX, 2 * self._limit)
        self._few = len(claims) <= store.FEW
        express = sum(claim.dispatch_key < MAIN_MIN for claim in claims)
        main = len(claims) - express
        if main:
            self._main.pause_s = 0.0
        if express:
            self._express.pause_s = self._gap_s = 0.0
        shortest_s = longest_s if heard else POLL_MIN_S
        if express < quota.express:
            self._express.rest(longest_s, shortest_s)
            if not quota.main:
                self._mind_the_gap()
        if main < min(quota.main, quota.limit - express):
            self._main.rest(longest_s, shortest_s)
            # Together, or an idle worker would look twice where once does.
            self._express.look_at = max(self._express.look_at, self._main.look_at)

    def failed(self, longest_s: float) -> None:
        """Leave the queue alone after an error; jittered, or all workers would return at once."""
        self._main.rest(longest_s)
        self._main.look_at -= self._main.pause_s * random.uniform(0, 0.5)
        self._express.look_at = self._main.look_at

    def _mind_the_gap(self) -> None:
        self._gap_s = min(EXPRESS_GAP_MAX_S, max(EXPRESS_GAP_MIN_S, 2 * self._gap_s))
        self._quiet_until = time.monotonic() + self._gap_s


def _random_ids() -> Iterator[UUID]:
    while True:
        drawn = os.urandom(16 * _IDS)
        yield from [UUID(bytes=drawn[at : at + 16], version=4) for at in range(0, 16 * _IDS, 16)]
