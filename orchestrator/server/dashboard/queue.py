"""Pausing and resuming a queue, with a question first."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from orchestrator.server.dashboard.pages import Page, page, see_other
from orchestrator.server.dashboard.state import Changer, Looker, dashboard
from orchestrator.server.dashboard.views import QueueView, queue_feed
from orchestrator.server.services import services
from orchestrator.store import orgs

router = APIRouter(route_class=Page, include_in_schema=False)


Name = Annotated[str, Query(min_length=1, max_length=200)]


class Verb(StrEnum):
    """What may be done to a queue."""

    PAUSE = "pause"
    RESUME = "resume"


@router.get("/queue/{verb}")
async def ask(
    request: Request,
    session: Looker,
    verb: Verb,
    name: Name,
) -> Response:
    """Ask whether to pause or resume a queue."""
    view: QueueView = (await queue_feed(request, name).latest()).value
    return page(
        "queue_confirm.html", session=session, screen="queues", view=view, queues=view.queues,
        queue=name, verb=verb,
    )  # fmt: skip


@router.post("/queue/{verb}")
async def change(request: Request, sent: Changer, verb: Verb, name: Name) -> Response:
    """Stop admission to a queue, or resume it."""
    operation = orgs.pause_queue(
        name, paused=verb is Verb.PAUSE, actor=sent.session.principal.actor
    )
    await services(request).database.do(operation, atomic=True)
    dashboard(request).feeds.expire()
    return see_other("/queues", done="paused" if verb is Verb.PAUSE else "resumed")
