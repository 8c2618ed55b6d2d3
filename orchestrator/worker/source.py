"""One queue as a worker's fetcher sees it: claim from it, know when it is worth another look."""

from __future__ import annotations

import random
import time
from typing import Any
from uuid import UUID, uuid4

from orchestrator.model import AttemptStatus, Claim
from orchestrator.store import queue as store
from orchestrator.store.queue import Ending
from orchestrator.store.sql import Batch, Operation
from orchestrator.worker.session import Session

# First pause of a queue that gave nothing, without notifications; it doubles up to `poll_max_s`.
POLL_MIN_S = 0.05
# Tasks of one claim, whatever the concurrency: it bounds the statement.
CLAIM_MAX = 500


class Source:
    """One queue: when to look at it, and how many tasks to ask it for."""

    def __init__(self, queue: int, name: str, *, lease_s: float, worker: str) -> None:
        self.queue = queue
        self.name = name
        self._lease_s = lease_s
        self._worker = worker
        self.look_at = 0.0
        #: How many tasks the last claim asked for.
        self.asked = 0
        self._pause_s = 0.0
        self._limit = CLAIM_MAX
        # A claim whose answer was lost: it may have leased tasks that nobody knows of.
        self._doubtful: UUID | None = None

    def claim(self, session: Session, wanted: int) -> list[Claim]:
        """Claim up to `wanted` tasks, or fewer; see `asked`."""
        self.asked = min(wanted, self._limit)
        self._doubtful = claim_id = uuid4()
        operation = store.claim(
            self.queue,
            self.name,
            claim_id,
            limit=self.asked,
            lease_s=self._lease_s,
            worker=self._worker,
        )
        # A queue that was empty probably still is: then the second statement is saved.
        claims: list[Claim] = session.run(_one_by_one(operation) if self._pause_s else operation)
        self._doubtful = None
        return claims

    def settle_doubt(self, session: Session) -> list[Ending]:
        """Look what a claim of unknown outcome took; return its tasks as released."""
        if self._doubtful is None:
            return []
        claim_id = self._doubtful
        taken = session.run(_taken(self.queue, claim_id, self._worker))
        self._doubtful = None
        return [Ending(key, claim_id, AttemptStatus.RELEASED) for key in taken]

    def gave(self, tasks: int, *, suspects: bool) -> None:
        """Note what a claim gave: after a suspect ask for little, then for more again.

        What a suspect does not run beside is given back, so little should be claimed along with it.
        """
        self._limit = 1 if suspects else min(CLAIM_MAX, 2 * self._limit)
        if tasks:
            self._pause_s = 0.0

    def rest(self, longest_s: float, *, shortest_s: float = POLL_MIN_S) -> None:
        """Leave the queue alone for a while: longer each time, up to `longest_s`."""
        self._pause_s = min(longest_s, max(shortest_s, 2 * self._pause_s))
        self.look_at = time.monotonic() + self._pause_s

    def failed(self, longest_s: float) -> None:
        """Leave the queue alone after an error; jittered, or all workers would return at once."""
        self.rest(longest_s)
        self.look_at -= self._pause_s * random.uniform(0, 0.5)


def _one_by_one(claiming: Operation) -> Operation:
    """Send the second statement of a claim only where the first one found something."""
    batch = next(claiming)
    assert isinstance(batch, Batch)
    taking, reading = batch.calls
    taken = yield taking
    tasks = (yield reading) if taken else []
    try:
        claiming.send([taken, tasks])
    except StopIteration as done:
        return done.value
    raise AssertionError("a claim is two statements")


def _taken(queue: int, claim_id: UUID, worker: str) -> Operation:
    """Return the dispatch keys that are leased under `claim_id`."""
    _, reading = store.claim_calls(queue, claim_id, limit=1, lease_s=1.0, worker=worker).calls
    rows: list[Any] = yield reading
    return [row[1] for row in rows]
