"""Tasks: enqueue one or many, look, cancel, retry, ask why one waits."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Path, Query, Response
from pydantic import ConfigDict, Field

from orchestrator.errors import OrchestratorError
from orchestrator.model import (
    DEFAULT_QUEUE,
    DEFAULT_WORKLOAD,
    MAX_ATTEMPTS_MAX,
    PRIORITY_DEFAULT,
    PRIORITY_MAX,
    PRIORITY_MIN,
    AttemptStatus,
    CancelOutcome,
    Explanation,
    Place,
    Reason,
    ReasonKind,
    TaskInfo,
    TaskSpec,
    Urgency,
)
from orchestrator.server.api.values import Answer, Body, Instant, Name, answered
from orchestrator.server.auth import Principal, Producer, Viewer
from orchestrator.server.problems import CONFLICT, NOT_FOUND, Problem
from orchestrator.server.services import Services, Used
from orchestrator.server.strictjson import strict_router
from orchestrator.store import backlog, tasks
from orchestrator.text import decoded

router = strict_router("/tasks", "tasks")

ID_MAX = 2**63 - 1
TaskId = Annotated[int, Path(ge=1, le=ID_MAX, description="The id that enqueue returned.")]


# In words, or as the numbers of agent platforms.
Urgent = Annotated[Urgency, Field(strict=False)] | Literal[100, 50, 10]


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
    priority: Annotated[int, Field(ge=PRIORITY_MIN, le=PRIORITY_MAX)] = int(PRIORITY_DEFAULT)
    run_at: Instant | None = None
    delay: float | None = None
    expires_at: Instant | None = None
    idempotency_key: Name | None = None
    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS_MAX)] = 5
    timeout_s: float | None = None
    headers: dict[str, str] | None = None
    critical: bool = False
    urgency: Urgent | None = None
    expires_in: float | None = None


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


class BatchIn(Body):
    """Tasks to enqueue together: all of them or, where one is wrong, none."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "tasks": [
                    {"name": "resize", "payload": {"image": 7}, "org": "acme"},
                    {"name": "resize", "payload": {"image": 8}, "org": "acme"},
                ]
            }
        }
    )

    tasks: list[TaskIn]


class BatchOut(Answer):
    """The live tasks of a batch, in its order."""

    tasks: list[EnqueuedOut]


class LineOut(Answer):
    """One line of a list of tasks."""

    id: int
    name: str
    org: str
    workload: str
    priority: int
    created_at: datetime
    place: Place
    attempt: int
    status: AttemptStatus | None


class PageOut(Answer):
    """A page of tasks, newest first."""

    tasks: list[LineOut]
    next: Annotated[
        str | None, Field(description="Where the next page is; null where this is the last.")
    ]


class CancelIn(Body):
    """Why a task is cancelled, for whoever asks later."""

    reason: Annotated[str, Field(min_length=1, max_length=4000)] = "cancelled"


class CancelOut(Answer):
    """What cancel found: gone at once, its worker to be told, or already ended."""

    id: int
    outcome: CancelOutcome


class RetryOut(Answer):
    """The task that waits again."""

    id: int


class ReasonOut(Answer):
    """One reason: a sentence for people, and the same as values."""

    kind: ReasonKind
    text: str
    unblock: str | None
    count: int | None
    count_exact: bool
    limit: int | None
    tasks: list[int]
    orgs: list[str]
    since: datetime | None
    until: datetime | None
    worker: str | None
    attempt: int | None
    status: AttemptStatus | None
    error: str | None


class ExplanationOut(Answer):
    """Why a task waits, the reason that binds first, and when it may start."""

    id: int
    org: str
    queue: str
    workload: str
    place: Place
    at: datetime
    line_at: datetime | None
    reasons: list[ReasonOut]
    expected_start_at: datetime | None
    expected_start_low_at: datetime | None
    expected_start_high_at: datetime | None
    probability: float
    rate_per_s: float | None
    starts_ahead: int | None


class ListQuery(Body):
    """Which tasks to list; strings, as queries are."""

    model_config = ConfigDict(strict=False)

    queue: Name = DEFAULT_QUEUE
    org: Name | None = None
    name: Name | None = None
    place: Place | None = None
    status: AttemptStatus | None = None
    before: Annotated[int, Field(ge=0, le=ID_MAX)] | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 100


@router.post(
    "",
    operation_id="enqueue",
    status_code=201,
    responses={
        200: {"model": EnqueuedOut, "description": "The unfinished task that holds the key"},
        202: {
            "model": EnqueuedOut,
            "description": "It is queued; its org is at burst_max and has `depth` tasks waiting",
        },
        **CONFLICT,
    },
)
async def enqueue(body: TaskIn, principal: Producer, used: Used, response: Response) -> EnqueuedOut:
    """Stage one task: 201 where it is new, 200 where its idempotency key has it already.

    202 says that it is new and that its org is at its burst_max: being queued is success. `depth`
    then counts what waits of the org, up to 1,000. 429 says that the org is over its backlog_max.
    """
    fields = body.given() | {"org": principal.acting_for(body.org)}
    enqueued = await used.database.enqueue(**fields)
    response.headers["Location"] = f"/v1/tasks/{enqueued.id}"
    if not enqueued.created:
        response.status_code = 200
        return EnqueuedOut.model_validate(enqueued)
    depth = None
    # It is stored: an error would have it sent again.
    with suppress(OrchestratorError):
        depth = await used.database.do(backlog.capped_depth(body.queue, fields["org"]))
    if depth is not None:
        response.status_code = 202
    return EnqueuedOut(id=enqueued.id, created=True, depth=depth)


@router.post(
    "/batch",
    operation_id="enqueueBatch",
    status_code=201,
    response_model=BatchOut,
    responses={
        200: {"model": BatchOut, "description": "The keys had all of them already"},
        **CONFLICT,
    },
)
async def enqueue_batch(body: BatchIn, principal: Producer, used: Used) -> Response:
    """Stage many tasks in one transaction, all or none: 201 where any of them is new."""
    most = used.settings.server.batch_max
    if len(body.tasks) > most:
        raise Problem(
            413, "batch-too-large", f"more than {most} tasks (server.batch_max): send several"
        )
    specs = [
        TaskSpec(**(task.given() | {"org": principal.acting_for(task.org)})) for task in body.tasks
    ]
    enqueued = await used.database.enqueue_many(specs)
    answer = {"tasks": [{"id": each.id, "created": each.created} for each in enqueued]}
    return answered(answer, 201 if any(each.created for each in enqueued) else 200)


@router.get("", operation_id="listTasks")
async def list_tasks(
    query: Annotated[ListQuery, Query()], principal: Viewer, used: Used
) -> PageOut:
    """List the tasks of a queue, newest first; `next` is the page of those that are older."""
    limit = min(query.limit, used.settings.server.batch_max)
    fields = query.model_dump() | {"org": principal.seeing(query.org), "limit": limit}
    lines = await used.database.tasks(**fields)
    following = None
    if len(lines) == limit:
        given = query.model_dump(exclude_none=True, exclude_unset=True)
        following = f"/v1/tasks?{urlencode(given | {'before': lines[-1].id, 'limit': limit})}"
    return PageOut(tasks=[LineOut.model_validate(line) for line in lines], next=following)


@router.get("/{id}", operation_id="getTask", responses=NOT_FOUND)
async def get(id: TaskId, principal: Viewer, used: Used) -> TaskOut:  # noqa: A002
    """Return where a task is, what it carries, and its history."""
    await _check_seen(id, principal, used)
    return TaskOut.of(await used.database.get(id))


@router.get("/{id}/explain", operation_id="explainTask", responses=NOT_FOUND)
async def explain(id: TaskId, principal: Viewer, used: Used) -> ExplanationOut:  # noqa: A002
    """Tell why a task waits, what would unblock it, and when it may start."""
    await _check_seen(id, principal, used)
    explanation = await used.database.explain(id)
    if principal.org is not None:
        explanation = discreet(explanation)
    return ExplanationOut.model_validate(explanation)


@router.post("/{id}/cancel", operation_id="cancelTask", responses=NOT_FOUND)
async def cancel(
    id: TaskId,  # noqa: A002
    principal: Producer,
    used: Used,
    body: CancelIn | None = None,
) -> CancelOut:
    """End a task where it waits, or ask its worker to stop (`requested`)."""
    await _check_seen(id, principal, used)
    reason = (body or CancelIn()).reason
    return CancelOut(id=id, outcome=await used.database.cancel(id, reason=reason))


@router.post("/{id}/retry", operation_id="retryTask", responses={**NOT_FOUND, **CONFLICT})
async def retry(id: TaskId, principal: Producer, used: Used) -> RetryOut:  # noqa: A002
    """Stage an ended task again, with its attempts counted anew."""
    await _check_seen(id, principal, used)
    await used.database.retry(id)
    return RetryOut(id=id)


def discreet(explanation: Explanation) -> Explanation:
    """Return an explanation for the eyes of its org: how many others go first, not who."""
    reasons = tuple(_without_others(reason, explanation.org) for reason in explanation.reasons)
    return replace(explanation, reasons=reasons)


def _without_others(reason: Reason, org: str) -> Reason:
    if all(each == org for each in reason.orgs):
        return reason
    count = "Other orgs go" if reason.count is None else f"{reason.count} other orgs go"
    return replace(
        reason, text=f"{count} first.", orgs=tuple(each for each in reason.orgs if each == org)
    )


async def _check_seen(task_id: int, principal: Principal, used: Services) -> None:
    """Raise `TaskNotFound` for another org's task; a token that is bound to none needs no look."""
    if principal.org is not None:
        principal.check_sees_task(task_id, await used.database.do(tasks.org_of(task_id)))
