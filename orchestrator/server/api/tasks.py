"""Tasks: enqueue and look."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import ConfigDict, Field

from orchestrator.model import (
    DEFAULT_QUEUE,
    DEFAULT_WORKLOAD,
    MAX_ATTEMPTS_MAX,
    PRIORITY_DEFAULT,
    PRIORITY_MAX,
    PRIORITY_MIN,
    AttemptStatus,
    Place,
    TaskInfo,
)
from orchestrator.server.api.values import Answer, Body, Instant, Name
from orchestrator.server.auth import Producer, Viewer
from orchestrator.server.problems import CONFLICT, NOT_FOUND
from orchestrator.server.services import Used
from orchestrator.text import decoded

router = APIRouter(prefix="/tasks", tags=["tasks"])

TaskId = Annotated[int, Path(ge=1, le=2**63 - 1, description="The id that enqueue returned.")]


class TaskIn(Body):
    """One task to enqueue."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"name": "resize", "payload": {"image": 7}, "org": "acme", "priority": 5}
        }
    )

    name: Name
    payload: Any = None
    org: Name | None = None
    queue: Name = DEFAULT_QUEUE
    workload: Name = DEFAULT_WORKLOAD
    priority: Annotated[int, Field(ge=PRIORITY_MIN, le=PRIORITY_MAX)] = PRIORITY_DEFAULT
    run_at: Instant | None = None
    delay: float | None = None
    expires_at: Instant | None = None
    idempotency_key: Name | None = None
    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS_MAX)] = 5
    timeout_s: float | None = None
    headers: dict[str, str] | None = None
    critical: bool = False


class EnqueuedOut(Answer):
    """The live task of an enqueue."""

    id: int
    created: bool
    depth: int | None = None


class AttemptOut(Answer):
    """One line of a task's history."""

    attempt: int
    status: AttemptStatus
    final: bool
    claimed_at: datetime | None
    ended_at: datetime
    cost_s: float
    worker: str | None
    error: str | None


class TaskOut(Answer):
    """A task: where it is, what it carries, what became of it."""

    id: int
    name: str
    org: str
    queue: str
    workload: str
    priority: int
    place: Place
    status: AttemptStatus | None
    attempt: int
    max_attempts: int
    payload: Any
    headers: dict[str, str]
    created_at: datetime
    run_at: datetime | None
    expires_at: datetime | None
    timeout_s: float | None
    idempotency_key: str | None
    worker: str | None
    lease_expires_at: datetime | None
    history: list[AttemptOut]

    @classmethod
    def of(cls, info: TaskInfo) -> TaskOut:
        """Return the answer about `info`."""
        fields = {name: getattr(info, name) for name in cls.model_fields if name != "payload"}
        return cls.model_validate(fields | {"payload": decoded(info.payload_text)})


@router.post(
    "",
    status_code=201,
    responses={200: {"model": EnqueuedOut, "description": "The key's task"}, **CONFLICT},
)
async def enqueue(body: TaskIn, principal: Producer, used: Used, response: Response) -> EnqueuedOut:
    """Stage one task: 201 where it is new, 200 where its idempotency key has it already."""
    fields = body.given() | {"org": principal.acting_for(body.org)}
    enqueued = await used.database.enqueue(**fields)
    response.status_code = 201 if enqueued.created else 200
    response.headers["Location"] = f"/v1/tasks/{enqueued.id}"
    return EnqueuedOut.model_validate(enqueued)


@router.get("/{id}", responses=NOT_FOUND)
async def get(id: TaskId, principal: Viewer, used: Used) -> TaskOut:  # noqa: A002
    """Return where a task is, what it carries, and its history."""
    info = await used.database.get(id)
    principal.check_sees_task(id, info.org)
    return TaskOut.of(info)
