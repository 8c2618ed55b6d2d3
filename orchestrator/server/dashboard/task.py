"""One task: what it carries, where it is and why, every attempt at it; cancel and retry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from orchestrator.model import CancelOutcome, Explanation, Place, TaskInfo
from orchestrator.server.dashboard.pages import Page, page, see_other
from orchestrator.server.dashboard.state import Changer, Looker, dashboard
from orchestrator.server.dashboard.views import look
from orchestrator.server.services import services
from orchestrator.store import explain, leadership, orgs, tasks
from orchestrator.store.sql import Operation

router = APIRouter(route_class=Page, include_in_schema=False)

_ID_MAX = 2**63 - 1
_REASON_MAX = 500

TaskId = Annotated[int, Path(ge=1, le=_ID_MAX)]


class Verb(StrEnum):
    """What may be done to a task."""

    CANCEL = "cancel"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a task's history."""

    at: datetime
    what: str
    css: str
    more: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task, as of one moment."""

    queues: tuple[str, ...]
    info: TaskInfo
    explanation: Explanation
    events: Sequence[Event]

    @property
    def state(self) -> str:
        """Return where an unfinished task is, or how it ended."""
        return str(self.info.status or self.info.place)

    @property
    def ended(self) -> bool:
        """Tell whether it is over."""
        return self.info.place is Place.ENDED


@router.get("/find")
async def find(
    _session: Looker, q: Annotated[str, Query(max_length=200)] = "", queue: str = ""
) -> Response:
    """Go to the task of this number, else to the org of this name."""
    wanted = q.strip()
    if not wanted:
        return see_other("/orgs", queue=queue or None)
    number = wanted.removeprefix("#")
    if number.isascii() and number.isdecimal() and 0 < int(number) <= _ID_MAX:
        return see_other(f"/task/{int(number)}")
    return see_other("/org", name=wanted, queue=queue or None)


@router.get("/task/{task_id}")
async def show(request: Request, session: Looker, task_id: TaskId, done: str = "") -> Response:
    """Show one task."""
    view: TaskView = await look(request, _view(task_id))
    return page(
        "task.html", session=session, screen="task", view=view, queues=view.queues,
        queue=view.info.queue, done=done,
    )  # fmt: skip


@router.get("/task/{task_id}/{verb}")
async def ask(request: Request, session: Looker, task_id: TaskId, verb: Verb) -> Response:
    """Ask whether to cancel or retry a task."""
    view: TaskView = await look(request, _view(task_id))
    return page(
        "task_confirm.html", session=session, screen="task", view=view, queues=view.queues,
        queue=view.info.queue, verb=verb,
    )  # fmt: skip


@router.post("/task/{task_id}/cancel")
async def cancel(request: Request, sent: Changer, task_id: TaskId) -> Response:
    """End a task that waits, or ask the worker of one that runs to stop."""
    reason = sent.text("reason")[:_REASON_MAX] or "cancelled by hand"
    operation = _cancel(task_id, reason, sent.session.principal.actor)
    outcome: CancelOutcome = await services(request).database.do(operation, atomic=True)
    dashboard(request).feeds.expire()
    return see_other(f"/task/{task_id}", done=str(outcome))


@router.post("/task/{task_id}/retry")
async def retry(request: Request, sent: Changer, task_id: TaskId) -> Response:
    """Stage an ended task again."""
    operation = _retry(task_id, sent.session.principal.actor)
    await services(request).database.do(operation, atomic=True)
    dashboard(request).feeds.expire()
    return see_other(f"/task/{task_id}", done="retried")


def _cancel(task_id: int, reason: str, actor: str) -> Operation:
    outcome = yield from tasks.cancel(task_id, reason=reason)
    if outcome is not CancelOutcome.ENDED:
        yield from orgs.audit(actor, "task.cancel", str(task_id), {"reason": reason})
    return outcome


def _retry(task_id: int, actor: str) -> Operation:
    yield from tasks.retry(task_id)
    yield from orgs.audit(actor, "task.retry", str(task_id), {})


def _view(task_id: int) -> Operation:
    queues = yield from leadership.queues()
    info = yield from tasks.get(task_id)
    explanation = yield from explain.explain(task_id)
    names = tuple(each.name for each in queues)
    return TaskView(names, info, explanation, _events(info))


def _events(info: TaskInfo) -> Sequence[Event]:
    """Return the history of a task in the order of time."""
    found = [Event(info.created_at, "enqueued", "start")]
    for attempt in info.history:
        if attempt.claimed_at is not None:
            found.append(
                Event(attempt.claimed_at, f"claimed, attempt {attempt.attempt}", "claimed",
                      attempt.worker or "")
            )  # fmt: skip
        cost = f"{attempt.cost_s:.3g} s of worker time" if attempt.cost_s else ""
        found.append(Event(attempt.ended_at, str(attempt.status), "ended", cost, attempt.error))
    return sorted(found, key=lambda event: event.at)
