"""The worker's verbs: claim, extend, heartbeat, ack, nack, release, snooze, discard."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.client.common import Common
from orchestrator.client.leases import Leases
from orchestrator.client.specs import error_text, optional_text, plain_name, seconds, shown, whole
from orchestrator.client.steps import UNKNOWN_OUTCOME, Pause, Steps, Work, verb
from orchestrator.config import Settings
from orchestrator.errors import InvalidInput, LeaseLost, OrchestratorError
from orchestrator.model import DEFAULT_QUEUE, AttemptStatus, Claim, Extension, Heartbeat
from orchestrator.store import queue as store
from orchestrator.store.queue import Ending
from orchestrator.store.sql import Operation

if TYPE_CHECKING:
    from orchestrator.client.steps import Lender

LIMIT_MAX = 10_000
LEASE_S_MIN, LEASE_S_MAX = 1.0, 86_400.0
WAIT_S_MAX = 3_600.0
# Polling is the truth and a notification a hint: look soon, then less and less often.
POLL_MIN_S, POLL_MAX_S = 0.005, 0.25
BACKOFF_BASE_S, BACKOFF_MAX_S = 1.0, 300.0
_NAMED_MAX = 20

_DOUBT = f"{UNKNOWN_OUTCOME}: `get` tells how the task ended, an expired lease runs it again"


class Claiming(Common):
    """Lease tasks and end them."""

    def __init__(self, settings: Settings, name: str | None) -> None:
        super().__init__(settings, name)
        self._leases = Leases()

    @verb
    def claim(
        self,
        queue: str = DEFAULT_QUEUE,
        *,
        limit: int = 1,
        lease_s: float = 30.0,
        wait_s: float = 0.0,
        worker: str | None = None,
    ) -> Steps[list[Claim]]:
        """Lease up to `limit` ready tasks for `lease_s` seconds, best first; return what there is.

        Where nothing is ready, wait up to `wait_s` seconds for something. One lease covers all
        tasks of the call. Raises `UnknownQueue`.
        """
        queue = plain_name("queue", queue)
        limit = whole("limit", limit, 1, LIMIT_MAX)
        lease_s = seconds("lease_s", lease_s, LEASE_S_MIN, LEASE_S_MAX)
        deadline = time.monotonic() + seconds("wait_s", wait_s, 0.0, WAIT_S_MAX)
        worker = self.name if worker is None else plain_name("worker", worker)
        pause_s = POLL_MIN_S
        while True:
            claims = yield from self._claim_once(queue, limit=limit, lease_s=lease_s, worker=worker)
            if claims:
                return claims
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return []
            yield Pause(self._queue_ids[queue], min(pause_s, left_s))
            pause_s = min(2 * pause_s, POLL_MAX_S)

    @verb
    def extend(
        self, claims: Claim | Iterable[Claim], lease_s: float = 30.0
    ) -> Steps[list[Extension]]:
        """Let the leases of `claims` end no sooner than `lease_s` seconds from now.

        Returns an `Extension` for each lease; its `cancelled` has the ids of those of `claims` that
        are asked to stop, its `yielding` of those that should make room for a critical task. Raises
        `LeaseLost` for the leases that are gone, after extending the others.
        """
        chosen = _chosen(claims)
        extended, lost = yield from self._extend_all(chosen, lease_s)
        _check_none_lost(lost)
        return extended

    @verb
    def heartbeat(
        self,
        claims: Claim | Iterable[Claim] = (),
        *,
        spare: int = 0,
        queue: str | Iterable[str] = DEFAULT_QUEUE,
        lease_s: float = 30.0,
        worker: str | None = None,
    ) -> Steps[Heartbeat]:
        """Report what runs and how many more tasks there is room for; learn what to do.

        Extends the leases of `claims`, and claims up to `spare` ready tasks of `queue`, or of
        several, in their order. What was lost is told, not raised. Raises `UnknownQueue`, but tells
        of tasks once any were claimed.
        """
        chosen = _chosen(claims)
        spare = whole("spare", spare, 0, LIMIT_MAX)
        lease_s = seconds("lease_s", lease_s, LEASE_S_MIN, LEASE_S_MAX)
        worker = self.name if worker is None else plain_name("worker", worker)
        queues = [plain_name("queue", name) for name in _listed(queue)]
        extensions, lost = yield from self._extend_all(chosen, lease_s)
        new: list[Claim] = []
        for name in dict.fromkeys(queues):
            if len(new) == spare:
                break
            room = spare - len(new)
            try:
                new += yield from self._claim_once(name, limit=room, lease_s=lease_s, worker=worker)
            except OrchestratorError:
                # What was claimed is leased to the caller, who would never hear of it.
                if not new:
                    raise
                break
        return Heartbeat(
            extensions=tuple(extensions),
            lost=frozenset(claim.id for claim in lost),
            cancelled=frozenset().union(*(each.cancelled for each in extensions)),
            yielding=frozenset().union(*(each.yielding for each in extensions)),
            claims=tuple(new),
        )

    @verb
    def ack(
        self, claims: Claim | Iterable[Claim], *, connection: Lender | None = None
    ) -> Steps[None]:
        """End claimed tasks as succeeded.

        With `connection`, the end commits with the effect that the caller wrote there: exactly
        once. Raises `LeaseLost` for claims that no longer stand, after ending the others; with
        `connection`, let it roll the transaction back, so that the effect is undone too.
        """
        yield from self._finish(_chosen(claims), AttemptStatus.SUCCEEDED, None, connection)

    @verb
    def discard(self, claim: Claim, reason: str | None = None) -> Steps[None]:
        """End a claimed task for good, without success and without another try."""
        reason = optional_text("reason", reason)
        yield from self._finish(_chosen([claim]), AttemptStatus.DISCARDED, reason, None)

    @verb
    def nack(
        self, claim: Claim, error: str | BaseException, delay: float | None = None
    ) -> Steps[AttemptStatus]:
        """End an attempt as failed; the task is tried again after `delay` seconds.

        Without `delay`, the wait grows exponentially with the attempts, with full jitter. Returns
        how it ended: failed, dead (its attempts are spent) or cancelled. Raises `LeaseLost`.
        """
        chosen = _chosen([claim])
        delay_s = backoff_s(claim.attempt) if delay is None else seconds("delay", delay)
        ended = self._give_back(chosen, AttemptStatus.FAILED, delay_s, error_text(error))
        return (yield from ended)[claim.dispatch_key]

    @verb
    def snooze(self, claim: Claim, delay: float | None = None) -> Steps[AttemptStatus]:
        """Put a claimed task off by `delay` seconds; the attempt is not counted.

        Without `delay` it waits for admission again at once, in its old place: so a task yields.
        Returns how it ended: snoozed, or cancelled where it was asked to stop. Raises `LeaseLost`.
        """
        delay_s = 0.0 if delay is None else seconds("delay", delay)
        ended = yield from self._give_back(_chosen([claim]), AttemptStatus.SNOOZED, delay_s)
        return ended[claim.dispatch_key]

    @verb
    def release(self, claims: Claim | Iterable[Claim]) -> Steps[None]:
        """Give claimed tasks back unharmed; the attempts are not counted. Raises `LeaseLost`."""
        yield from self._give_back(_chosen(claims), AttemptStatus.RELEASED)

    def _claim_once(
        self, queue: str, *, limit: int, lease_s: float, worker: str
    ) -> Steps[list[Claim]]:
        """Lease what is ready, up to `limit` tasks."""
        operation = self._claim(queue, limit=limit, lease_s=lease_s, worker=worker)
        claims: list[Claim] = yield Work(operation=operation, pinned=True)
        if claims:
            self._leases.opened(claims, worker)
        return claims

    def _extend_all(
        self, claims: Sequence[Claim], lease_s: float
    ) -> Steps[tuple[list[Extension], list[Claim]]]:
        """Extend the leases of `claims`; return what each learnt, and the claims that are lost."""
        lease_s = seconds("lease_s", lease_s, LEASE_S_MIN, LEASE_S_MAX)
        extended: list[Extension] = []
        for (queue, _), group in self._grouped(claims).items():
            extended += yield Work(operation=self._extend(queue, group, lease_s))
        held = {extension.claim_id for extension in extended}
        lost = [claim for claim in claims if claim.claim_id not in held]
        return [_by_task(extension, claims) for extension in extended], lost

    def _claim(self, queue: str, *, limit: int, lease_s: float, worker: str) -> Operation:
        queue_id = yield from self._queue_id(queue)
        return (
            yield from store.claim(
                queue_id, queue, uuid.uuid4(), limit=limit, lease_s=lease_s, worker=worker
            )
        )

    def _extend(self, queue: str, claims: Sequence[Claim], lease_s: float) -> Operation:
        queue_id = yield from self._queue_id(queue)
        ids = sorted({claim.claim_id for claim in claims})
        return (yield from store.extend(queue_id, ids, lease_s))

    def _finish(
        self,
        claims: Sequence[Claim],
        status: AttemptStatus,
        error: str | None,
        connection: Lender | None,
    ) -> Steps[None]:
        lost: list[Claim] = []
        for (queue, worker), group in self._grouped(claims).items():
            closing = self._leases.ended(group)
            if connection is not None:
                closing = []  # whether these ends will commit is not ours to know
            endings = [
                Ending(c.dispatch_key, c.claim_id, status, error, keyed=c.keyed) for c in group
            ]
            operation = self._queued(queue, store.finish, endings, worker=worker, closing=closing)
            ended = yield Work(
                operation=operation, connection=connection, pinned=True, doubt=_DOUBT
            )
            lost += [claim for claim in group if claim.dispatch_key not in ended]
        _check_none_lost(lost)

    def _give_back(
        self,
        claims: Sequence[Claim],
        status: AttemptStatus,
        delay_s: float = 0.0,
        error: str | None = None,
    ) -> Steps[dict[int, AttemptStatus]]:
        """End attempts that may be tried again; return how each dispatch key really ended."""
        ended: dict[int, AttemptStatus] = {}
        lost: list[Claim] = []
        for (queue, worker), group in self._grouped(claims).items():
            self._leases.ended(group)
            endings = [Ending(c.dispatch_key, c.claim_id, status, error, delay_s) for c in group]
            operation = self._queued(queue, store.give_back, endings, worker=worker)
            verdicts: Mapping[int, AttemptStatus] = yield Work(
                operation=operation, atomic=True, pinned=True, doubt=_DOUBT
            )
            ended.update(verdicts)
            lost += [claim for claim in group if claim.dispatch_key not in verdicts]
        _check_none_lost(lost)
        return ended

    def _queued(
        self, queue: str, act: Callable[..., Operation], *args: Any, **kwargs: Any
    ) -> Operation:
        """Look the queue up, then act in it."""
        queue_id = yield from self._queue_id(queue)
        return (yield from act(queue_id, *args, **kwargs))

    def _grouped(self, claims: Sequence[Claim]) -> dict[tuple[str, str], list[Claim]]:
        groups: dict[tuple[str, str], list[Claim]] = {}
        for claim in claims:
            worker = self._leases.worker(claim) or self.name
            groups.setdefault((claim.queue, worker), []).append(claim)
        return groups


def backoff_s(attempt: int) -> float:
    """Draw how long to wait after a failed attempt: exponential, with full jitter."""
    # The exponent is bounded first: a thousand attempts would overflow a float.
    return random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2 ** min(attempt - 1, 16)))


def _chosen(claims: Claim | Iterable[Claim]) -> list[Claim]:
    chosen = list(claims) if isinstance(claims, Iterable) else [claims]
    for claim in chosen:
        if not isinstance(claim, Claim):
            raise InvalidInput(f"claims are what `claim` returned, not {shown(claim)}")
    return chosen


def _by_task(extension: Extension, claims: Sequence[Claim]) -> Extension:
    """Name the tasks that should stop or yield by their ids, as the caller knows them."""
    own = [claim for claim in claims if claim.claim_id == extension.claim_id]
    return Extension(
        extension.claim_id,
        extension.lease_expires_at,
        frozenset(claim.id for claim in own if claim.dispatch_key in extension.cancelled),
        frozenset(claim.id for claim in own if claim.dispatch_key in extension.yielding),
    )


def _listed(queue: str | Iterable[str]) -> list[str]:
    return [queue] if isinstance(queue, str) or not isinstance(queue, Iterable) else list(queue)


def _check_none_lost(claims: Sequence[Claim]) -> None:
    if not claims:
        return
    ids = sorted({claim.id for claim in claims})
    named = ", ".join(map(str, ids[:_NAMED_MAX]))
    more = f" and {len(ids) - _NAMED_MAX} more" if len(ids) > _NAMED_MAX else ""
    raise LeaseLost(
        f"no valid claim on task {named}{more}: the lease expired, or the task ended elsewhere; "
        "drop what was done for it"
    )
