"""Claims: lease tasks, wait for them, extend, end. For workers that are not Python.

A worker takes the tasks of all orgs in turn: that is what fairness between them means. So a token
that is bound to one org may do none of this, whatever its scope.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Request, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import to_json

from orchestrator.client.claiming import LEASE_S_MAX, LEASE_S_MIN
from orchestrator.client.specs import error_text, seconds
from orchestrator.model import DEFAULT_QUEUE, AttemptStatus, Claim
from orchestrator.server import held
from orchestrator.server.api.values import Answer, Body, Name, answered
from orchestrator.server.auth import Principal, WorkerPrincipal
from orchestrator.server.claiming import Order
from orchestrator.server.held import Held, How
from orchestrator.server.limits import UNEVENTFUL
from orchestrator.server.problems import CONFLICT, Problem, forbidden
from orchestrator.server.services import Services, Used
from orchestrator.server.strictjson import strict_router

router = strict_router("", "claims")

WAIT_S_MAX = 30.0
QUEUES_MAX = 100
_INT8 = 2**63


async def _unbound(principal: WorkerPrincipal) -> Principal:
    if principal.org is not None:
        raise forbidden(
            "this token is bound to one org, and a worker is given the tasks of all: "
            "make one without --org"
        )
    return principal


Worker = Annotated[Principal, Depends(_unbound)]


def _key(text: str) -> str:
    if not -_INT8 <= int(text) < _INT8:
        raise ValueError("dispatch_key is what the claim said, unchanged")
    return text


_uuid = lru_cache(1024)(UUID)


def _interned(value: object) -> object:
    # Most claims of a call are of one lease, and Python's UUIDs are slow to make and to compare.
    try:
        return _uuid(value) if isinstance(value, str) else value
    except ValueError:
        return value  # refused where it is checked


Queues = Annotated[list[Name], Field(min_length=1, max_length=QUEUES_MAX)]
LeaseS = Annotated[float, Field(ge=LEASE_S_MIN, le=LEASE_S_MAX)]
DelayS = Annotated[float, Field(ge=0, le=10 * 365 * 86_400)]
# As text: most languages would round a number of 19 digits.
DispatchKey = Annotated[str, Field(pattern=r"^-?[0-9]{1,19}$"), AfterValidator(_key)]


class HeldIn(BaseModel):
    """A claim, as `claim` returned it or these fields of it."""

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)

    id: Annotated[int, Field(ge=1, lt=_INT8)]
    queue: Name = DEFAULT_QUEUE
    claim_id: Annotated[UUID, Field(strict=False), BeforeValidator(_interned)]
    dispatch_key: DispatchKey
    attempt: Annotated[int, Field(ge=1, lt=2**31)] = 1

    def held(self) -> Held:
        """Return it as a value."""
        key = int(self.dispatch_key)
        return Held(self.id, self.queue, self.claim_id, key, self.attempt)


class ClaimIn(Body):
    """What to lease."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"queues": ["default"], "limit": 10, "wait_s": 30}}
    )

    queues: Queues = Field(default=[DEFAULT_QUEUE], description="Taken from in this order.")
    limit: int = Field(1, description="At most so many tasks, in all; 0 = none.")
    lease_s: LeaseS = Field(30.0, description="How long they are yours without a heartbeat.")
    wait_s: float = Field(
        0.0, ge=0, le=WAIT_S_MAX, description="How long to wait where nothing is ready."
    )
    worker: Name | None = Field(None, description="Who works; else the name of the token.")


class EndIn(Body):
    """Which claims to end."""

    claims: Annotated[list[HeldIn], Field(min_length=1)]
    worker: Name | None = None


class NackIn(EndIn):
    """Which attempts failed, and how."""

    error: str = Field(description="What went wrong, for people.")
    delay_s: DelayS | None = Field(
        None, description="When to try again; else later with each attempt, at random."
    )
    final: bool = Field(False, description="Do not try again.")


class ReleaseIn(EndIn):
    """Which claims to give back unharmed."""

    delay_s: DelayS | None = Field(
        None, description="Not before so long from now; else as soon as their turn comes."
    )


class ExtendIn(Body):
    """Which leases to extend."""

    claims: Annotated[list[HeldIn], Field(min_length=1)]
    lease_s: LeaseS = 30.0


class HeartbeatIn(Body):
    """What a worker runs, and how much more it has room for."""

    claims: list[HeldIn] = Field(default=[])
    spare: int = Field(0, description="Room for so many more tasks; 0 = none.")
    queues: Queues = Field(default=[DEFAULT_QUEUE])
    lease_s: LeaseS = 30.0
    worker: Name | None = None


class ClaimOut(Answer):
    """One leased task. Send it back as it is to extend or end it."""

    id: int
    name: str | None
    org: str
    queue: str
    workload: str
    priority: int
    attempt: int
    max_attempts: int
    claim_id: UUID
    dispatch_key: str
    lease_expires_at: datetime
    timeout_s: float | None
    headers: dict[str, str]
    created_at: datetime | None
    payload: Any


class ClaimsOut(Answer):
    """What was leased."""

    claims: list[ClaimOut]


class EndedOut(Answer):
    """How one attempt ended; not always as asked: a cancelled task ends as cancelled."""

    id: int
    status: AttemptStatus


class EndedAllOut(Answer):
    """How each attempt ended."""

    ended: list[EndedOut]


class ExtendedOut(Answer):
    """A lease that was extended."""

    claim_id: UUID
    lease_expires_at: datetime


class ToldOut(Answer):
    """What a worker learns of the tasks it runs, by id."""

    extended: list[ExtendedOut]
    lost: list[int] = Field(description="No longer yours: drop what was done for them.")
    cancelled: list[int] = Field(description="To be stopped, and ended in any way.")
    yielding: list[int] = Field(description="To be released as soon as they can be.")


class HeartbeatOut(ToldOut):
    """What a worker learns, and what it is given."""

    claims: list[ClaimOut]


@router.post("/claim", response_model=ClaimsOut)
async def claim(body: ClaimIn, principal: Worker, used: Used, request: Request) -> Response:
    """Lease up to `limit` ready tasks of the queues; wait up to `wait_s` where there are none.

    What one queue gave is returned though another failed. Empty queues cost the database nothing.
    """
    _check_room("limit", body.limit, used)
    worker = body.worker or principal.name
    order = Order(body.queues, body.limit, body.lease_s, body.wait_s, worker)
    claims = await _claim_unless_gone(used, request, order)
    request.scope["state"][UNEVENTFUL] = not claims
    return _json({"claims": []}, claims)


@router.post("/heartbeat", response_model=HeartbeatOut)
async def heartbeat(body: HeartbeatIn, principal: Worker, used: Used, request: Request) -> Response:
    """Report what runs and how much room there is: leases are extended, and you are told what was
    lost, what to stop, what should yield, and given up to `spare` new tasks.
    """
    _check_room("spare", body.spare, used)
    _check_batch(body.claims, used)
    told = await _told(used, body.claims, body.lease_s) if body.claims else _NOTHING
    worker = body.worker or principal.name
    order = Order(body.queues, body.spare, body.lease_s, 0.0, worker)
    claims = await _claim_unless_gone(used, request, order)
    return _json(told.model_dump(mode="json"), claims)


@router.post("/extend", responses=CONFLICT)
async def extend(body: ExtendIn, _principal: Worker, used: Used) -> ToldOut:
    """Let leases end no sooner than `lease_s` from now: 409 where any is lost, after extending the
    others.
    """
    _check_batch(body.claims, used)
    told = await _told(used, body.claims, body.lease_s)
    lost = set(told.lost)
    _check_stand(body.claims, [each.id not in lost for each in body.claims])
    return told


@router.post("/ack", response_model=EndedAllOut, responses=CONFLICT)
async def ack(body: EndIn, principal: Worker, used: Used) -> Response:
    """End tasks as succeeded: 409 where any claim no longer stands, after ending the others."""
    return await _end(body, How(AttemptStatus.SUCCEEDED), principal, used)


@router.post("/nack", response_model=EndedAllOut, responses=CONFLICT)
async def nack(body: NackIn, principal: Worker, used: Used) -> Response:
    """End attempts as failed; their tasks are tried again later, or not if `final`."""
    status = AttemptStatus.DISCARDED if body.final else AttemptStatus.FAILED
    return await _end(body, How(status, error_text(body.error), body.delay_s), principal, used)


@router.post("/release", response_model=EndedAllOut, responses=CONFLICT)
async def release(body: ReleaseIn, principal: Worker, used: Used) -> Response:
    """Give tasks back unharmed, to yield or to shut down; the attempts are not counted."""
    status = AttemptStatus.RELEASED if body.delay_s is None else AttemptStatus.SNOOZED
    return await _end(body, How(status, None, body.delay_s), principal, used)


async def _end(body: EndIn, how: How, principal: Principal, used: Services) -> Response:
    _check_batch(body.claims, used)
    final = how.status in (AttemptStatus.SUCCEEDED, AttemptStatus.DISCARDED)
    verdicts = await (held.finish if final else held.give_back)(
        used.database,
        [each.held() for each in body.claims],
        how._replace(delay_s=None if how.delay_s is None else seconds("delay_s", how.delay_s)),
        worker=body.worker or principal.name,
    )
    _check_stand(body.claims, [verdict is not None for verdict in verdicts])
    ended = zip(body.claims, verdicts, strict=True)
    return answered({"ended": [{"id": claim.id, "status": verdict} for claim, verdict in ended]})


async def _told(used: Services, claims: Sequence[HeldIn], lease_s: float) -> ToldOut:
    extended = await held.extend(used.database, [each.held() for each in claims], lease_s)

    def of(keys: str) -> list[int]:
        return [
            each.id
            for each in claims
            if each.claim_id in extended
            and int(each.dispatch_key) in getattr(extended[each.claim_id], keys)
        ]

    return ToldOut(
        extended=[ExtendedOut.model_validate(each) for each in extended.values()],
        lost=[each.id for each in claims if each.claim_id not in extended],
        cancelled=of("cancelled"),
        yielding=of("yielding"),
    )


_NOTHING = ToldOut(extended=[], lost=[], cancelled=[], yielding=[])


async def _claim_unless_gone(used: Services, request: Request, order: Order) -> list[Claim]:
    """Claim for a client; where it hangs up first, give back what it will not hear of."""
    claiming = asyncio.ensure_future(used.hub.claim(order))
    gone = asyncio.ensure_future(_gone(request))
    delivered = False
    try:
        await asyncio.wait((claiming, gone), return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            return []
        delivered = True
        return claiming.result()
    finally:
        gone.cancel()
        if not delivered:
            used.hub.forget(claiming)


async def _gone(request: Request) -> None:
    """Return when the client has hung up; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_room(field: str, room: int, used: Services) -> None:
    if room < 0:
        raise Problem(400, "invalid-input", f"{field} must be 0 or more")
    if room > (most := used.settings.server.batch_max):
        raise Problem(422, "invalid-input", f"{field} must be at most {most} (server.batch_max)")


def _check_batch(claims: Sequence[HeldIn], used: Services) -> None:
    if len(claims) > (most := used.settings.server.batch_max):
        raise Problem(422, "invalid-input", f"claims: at most {most} at once (server.batch_max)")


def _check_stand(claims: Sequence[HeldIn], stand: Sequence[bool]) -> None:
    """Raise a 409 that names the claims that no longer stand by their place in the call."""
    lost = [place for place, stands in enumerate(stand) if not stands]
    if lost:
        others = "; the others were done" if len(lost) < len(claims) else ""
        raise Problem(
            409,
            "lease-lost",
            f"{len(lost)} of {len(claims)} claims no longer stand: the lease expired, or the task "
            f"ended elsewhere; drop what was done for them{others}",
            errors=[
                {"field": f"claims.{place}", "detail": f"no valid claim on task {claims[place].id}"}
                for place in lost
            ],
        )


def _json(others: dict[str, Any], claims: Sequence[Claim]) -> Response:
    """Return the answer with the payloads as they are stored: nobody decodes them on the way."""
    told = b",".join(map(_claim_json, claims))
    head = to_json(others | {"claims": None}).removesuffix(b"null}")
    return Response(b"%b[%b]}" % (head, told), media_type="application/json")


def _claim_json(claim: Claim) -> bytes:
    fields = {
        "id": claim.id,
        "name": claim.name,
        "org": claim.org,
        "queue": claim.queue,
        "workload": claim.workload,
        "priority": claim.priority,
        "attempt": claim.attempt,
        "max_attempts": claim.max_attempts,
        "claim_id": claim.claim_id,
        "dispatch_key": str(claim.dispatch_key),
        "lease_expires_at": claim.lease_expires_at,
        "timeout_s": claim.timeout_s,
        "headers": dict(claim.headers),
        "created_at": claim.created_at,
    }
    payload = b"null" if claim.payload_text is None else claim.payload_text.encode()
    return b'%b,"payload":%b}' % (to_json(fields)[:-1], payload)
