"""Queues: the lanes of work."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import ConfigDict, Field

from orchestrator.model import NAME_MAX_CHARS, CostMode, Policy
from orchestrator.server.api.orgs import Most
from orchestrator.server.api.values import Answer, Body
from orchestrator.server.auth import Admin, Reader
from orchestrator.server.problems import NOT_FOUND
from orchestrator.server.services import Used
from orchestrator.server.strictjson import strict_router
from orchestrator.store import leadership, orgs

router = strict_router("/queues", "configuration")

QueueName = Annotated[str, Path(min_length=1, max_length=NAME_MAX_CHARS)]


class QueueOut(Answer):
    """A queue; null means no bound, or what the server chooses."""

    name: str
    policy: Policy
    cost_mode: CostMode
    capacity: int | None
    headroom: float | None
    express_reserve: int | None
    ready_max: int | None
    kappa: int
    max_wait_s: float | None
    paused: bool


class QueuesOut(Answer):
    """Every queue."""

    queues: list[QueueOut]


class QueueIn(Body):
    """What to set; what is left out stays, null means no bound."""

    model_config = ConfigDict(json_schema_extra={"example": {"capacity": 200, "headroom": 2.0}})

    policy: Annotated[Policy, Field(strict=False)] | None = None
    cost_mode: Annotated[CostMode, Field(strict=False)] | None = None
    capacity: Most | None = None
    headroom: Annotated[float, Field(gt=0, le=1e9)] | None = None
    express_reserve: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    ready_max: Most | None = None
    kappa: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    max_wait_s: Annotated[float, Field(gt=0, le=3650 * 86400)] | None = None


@router.get("", operation_id="listQueues")
async def list_queues(principal: Reader, used: Used) -> QueuesOut:
    """List the queues."""
    principal.check_unbound()
    found = await used.database.do(leadership.queues())
    return QueuesOut(queues=[QueueOut.model_validate(each) for each in found])


@router.put("/{queue:name}", operation_id="setQueue")
async def put(queue: QueueName, body: QueueIn, principal: Admin, used: Used) -> QueueOut:
    """Create or change a queue."""
    fields: dict[str, Any] = body.given()
    operation = orgs.set_queue(queue, **fields, actor=principal.actor)
    return QueueOut.model_validate(await used.database.do(operation, atomic=True))


@router.post("/{queue:name}/pause", operation_id="pauseQueue", responses=NOT_FOUND)
async def pause(queue: QueueName, principal: Admin, used: Used) -> QueueOut:
    """Stop admission to a queue; what is admitted runs on."""
    operation = orgs.pause_queue(queue, paused=True, actor=principal.actor)
    return QueueOut.model_validate(await used.database.do(operation, atomic=True))


@router.post("/{queue:name}/resume", operation_id="resumeQueue", responses=NOT_FOUND)
async def resume(queue: QueueName, principal: Admin, used: Used) -> QueueOut:
    """Admit to a queue again."""
    operation = orgs.pause_queue(queue, paused=False, actor=principal.actor)
    return QueueOut.model_validate(await used.database.do(operation, atomic=True))
