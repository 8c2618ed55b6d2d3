"""The leases this worker holds: one for each claim call, until its last task is acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from uuid import UUID


class Lease:
    """One lease: how many of its tasks have not ended yet, and until when it holds."""

    __slots__ = ("claim_id", "deadline", "queue", "tasks", "unfinished", "yielding")

    def __init__(self, claim_id: UUID, queue: int, tasks: int, deadline: float) -> None:
        self.claim_id = claim_id
        self.queue = queue
        self.tasks = tasks
        # Counted down by the ack thread alone.
        self.unfinished = tasks
        # By our clock, counted from before the claim was sent: the server's ends a little later.
        self.deadline = deadline
        # The dispatch keys of those that are asked to yield; the heartbeat's alone.
        self.yielding: frozenset[int] = frozenset()


class Leases:
    """The leases to extend; the fetcher adds, the acks remove, the heartbeat reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[UUID, Lease] = {}

    def add(self, lease: Lease) -> None:
        """Hold a lease from now on."""
        with self._lock:
            self._held[lease.claim_id] = lease

    def remove(self, lease: Lease) -> None:
        """Hold it no more: nothing of it is left, or it was lost."""
        with self._lock:
            self._held.pop(lease.claim_id, None)

    def holds(self, lease: Lease) -> bool:
        """Tell whether a lease is still held."""
        with self._lock:
            return lease.claim_id in self._held

    def unfinished(self) -> int:
        """Return how many tasks of all leases have not ended, as far as the acks have counted."""
        with self._lock:
            return sum([lease.unfinished for lease in self._held.values()])

    def held_among(self, claim_ids: Iterable[str]) -> set[str]:
        """Return those of the claim ids, written out, of which the lease is held."""
        with self._lock:
            held = {str(claim_id) for claim_id in self._held}
        return held.intersection(claim_ids)

    def held(self) -> dict[int, list[Lease]]:
        """Return the leases by queue."""
        by_queue: dict[int, list[Lease]] = {}
        with self._lock:
            for lease in self._held.values():
                by_queue.setdefault(lease.queue, []).append(lease)
        return by_queue
