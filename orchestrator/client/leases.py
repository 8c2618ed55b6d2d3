"""The leases a client holds: who works under them, and how many of their tasks are open."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from orchestrator.model import Claim

# Leases whose tasks are never ended here would pile up; the oldest are forgotten, which costs
# nothing but that the reaper, not the last ack, deletes their rows.
LEASES_MAX = 10_000


@dataclass(slots=True)
class _Lease:
    worker: str
    open: set[int]


class Leases:
    """Remembers which tasks of each claim call are open; a hint, which the database checks."""

    def __init__(self) -> None:
        self._leases: dict[UUID, _Lease] = {}
        self._lock = threading.Lock()

    def opened(self, claims: Sequence[Claim], worker: str) -> None:
        """Note the claims of one claim call."""
        with self._lock:
            keys = {claim.dispatch_key for claim in claims}
            self._leases[claims[0].claim_id] = _Lease(worker, keys)
            if len(self._leases) > LEASES_MAX:
                del self._leases[next(iter(self._leases))]

    def worker(self, claim: Claim) -> str | None:
        """Return who claimed this, None where it is not known here."""
        lease = self._leases.get(claim.claim_id)
        return lease.worker if lease else None

    def ended(self, claims: Sequence[Claim]) -> list[UUID]:
        """Note that these claims end; return the leases of which nothing is left then."""
        emptied = []
        with self._lock:
            for claim in claims:
                lease = self._leases.get(claim.claim_id)
                if lease is not None:
                    lease.open.discard(claim.dispatch_key)
                    if not lease.open:
                        del self._leases[claim.claim_id]
                        emptied.append(claim.claim_id)
        return emptied
