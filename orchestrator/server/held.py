"""Claims as values: what a worker that is not Python holds, and how it ends them.

Over HTTP a claim is told by its queue, its claim id and its dispatch key; nothing of it is kept in
the process that gave it, so any other may be asked to end it. The claim id is the fence: one that
no longer stands ends nothing, and the answer names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

from orchestrator.client.claiming import backoff_s
from orchestrator.model import AttemptStatus, Extension
from orchestrator.server.services import Database
from orchestrator.store import queue as store
from orchestrator.store.queue import Ending
from orchestrator.store.sql import Operation
from orchestrator.telemetry import metrics


class Held(NamedTuple):
    """One claim, as its worker sends it back."""

    id: int
    queue: str
    claim_id: UUID
    dispatch_key: int
    attempt: int


class How(NamedTuple):
    """How attempts end; without a delay, failed ones wait longer with each attempt."""

    status: AttemptStatus
    error: str | None = None
    delay_s: float | None = None


# By the place of each claim in the call: how it really ended, or None where it no longer stands.
Verdicts = list[AttemptStatus | None]


async def finish(
    database: Database, claims: Sequence[Held], how: How, *, worker: str | None
) -> Verdicts:
    """End claims for good."""

    def act(queue: int, group: Sequence[Held]) -> Operation:
        endings = [Ending(c.dispatch_key, c.claim_id, how.status, how.error) for c in group]
        closing = sorted({claim.claim_id for claim in group})
        ended = yield from store.finish(queue, endings, worker=worker, closing=closing)
        return dict.fromkeys(ended, how.status)

    # One statement is a transaction by itself, two round trips shorter than one that is opened.
    return await _each(database, claims, act, atomic=False)


async def give_back(
    database: Database, claims: Sequence[Held], how: How, *, worker: str | None
) -> Verdicts:
    """End attempts whose tasks may be tried again."""

    def act(queue: int, group: Sequence[Held]) -> Operation:
        endings = [
            Ending(c.dispatch_key, c.claim_id, how.status, how.error, _delay_s(how, c))
            for c in group
        ]
        return (yield from store.give_back(queue, endings, worker=worker))

    return await _each(database, claims, act, atomic=True)


async def extend(
    database: Database, claims: Sequence[Held], lease_s: float
) -> dict[UUID, Extension]:
    """Extend the leases of claims; return those that still ran, by claim id."""
    extended: dict[UUID, Extension] = {}
    for name, group in _by_queue(claims):

        def act(queue: int, group: Sequence[Held] = group) -> Operation:
            ids = sorted({claim.claim_id for claim in group})
            return (yield from store.extend(queue, ids, lease_s))

        found: list[Extension] = await database.do(database.in_queue(name, act))
        extended |= {extension.claim_id: extension for extension in found}
    return extended


async def _each(
    database: Database,
    claims: Sequence[Held],
    act: Callable[[int, Sequence[Held]], Operation],
    *,
    atomic: bool,
) -> Verdicts:
    ended: dict[tuple[str, int], AttemptStatus] = {}
    for name, group in _by_queue(claims):

        def acting(queue: int, group: Sequence[Held] = group) -> Operation:
            return (yield from act(queue, group))

        verdicts = await database.do(database.in_queue(name, acting), atomic=atomic, pinned=True)
        metrics.ended(name, verdicts.values())
        ended |= {(name, key): status for key, status in verdicts.items()}
    return [ended.get((claim.queue, claim.dispatch_key)) for claim in claims]


def _by_queue(claims: Sequence[Held]) -> Iterator[tuple[str, list[Held]]]:
    groups: dict[str, list[Held]] = {}
    for claim in claims:
        groups.setdefault(claim.queue, []).append(claim)
    yield from groups.items()


def _delay_s(how: How, claim: Held) -> float:
    if how.delay_s is not None:
        return how.delay_s
    return backoff_s(claim.attempt) if how.status is AttemptStatus.FAILED else 0.0
