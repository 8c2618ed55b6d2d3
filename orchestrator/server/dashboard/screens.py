"""Now, Orgs, Queues and Leader: as pages, and as streams of what changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from orchestrator.server.dashboard.chart import Chart, chart
from orchestrator.server.dashboard.feed import Feed, Reading
from orchestrator.server.dashboard.pages import Page, page, render
from orchestrator.server.dashboard.session import Session
from orchestrator.server.dashboard.state import Looker, principal_of
from orchestrator.server.dashboard.views import leader_feed, queue_feed, queues_feed
from orchestrator.server.services import services
from orchestrator.store.loads import OrgLoad
from orchestrator.store.overview import Overview

router = APIRouter(route_class=Page, include_in_schema=False)

ORGS_SHOWN = 100
_TOP_ORGS = 8
# A stream ends before the server would end the request, and the browser asks for the next.
_STREAM_S = 300.0
_MARGIN_S = 5.0
_AGAIN_MS = 1_000

QueueName = Annotated[str, Query(max_length=200, alias="queue")]


class Screen(StrEnum):
    """A screen that is live."""

    NOW = "now"
    ORGS = "orgs"
    QUEUES = "queues"
    LEADER = "leader"


class OrgOrder(StrEnum):
    """By what the orgs are ordered."""

    SLOTS = "slots"
    OLDEST = "oldest"
    BACKLOG = "backlog"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Asked:
    """Which screen, of which queue, in which order."""

    screen: Screen
    queue: str = ""
    order: OrgOrder = OrgOrder.SLOTS


@router.get("/")
async def now(request: Request, session: Looker, queue: QueueName = "") -> Response:
    """Show the numbers that tell whether something is wrong."""
    return await _page(request, session, Asked(Screen.NOW, queue))


@router.get("/orgs")
async def orgs(
    request: Request,
    session: Looker,
    queue: QueueName = "",
    order: OrgOrder = OrgOrder.SLOTS,
) -> Response:
    """Show who holds the slots and who waits."""
    return await _page(request, session, Asked(Screen.ORGS, queue, order))


@router.get("/queues")
async def queues(request: Request, session: Looker, done: str = "") -> Response:
    """Show every queue."""
    return await _page(request, session, Asked(Screen.QUEUES), done=done)


@router.get("/leader")
async def leader(request: Request, session: Looker, queue: QueueName = "") -> Response:
    """Show who leads, who led, and what was decided."""
    return await _page(request, session, Asked(Screen.LEADER, queue))


@router.get("/live")
async def live(
    request: Request,
    session: Looker,
    screen: Screen,
    queue: QueueName = "",
    order: OrgOrder = OrgOrder.SLOTS,
) -> Response:
    """Send a screen whenever it was read anew, as server-sent events."""
    asked = Asked(screen, queue, order)
    feed = _feed(request, asked)
    await feed.latest()  # what is wrong with the question is an answer, not a broken stream
    seconds = min(_STREAM_S, services(request).settings.server.request_timeout_s - _MARGIN_S)
    return StreamingResponse(
        _events(request, session, asked, feed, max(1.0, seconds)), media_type="text/event-stream"
    )


async def _page(request: Request, session: Session, asked: Asked, done: str = "") -> Response:
    reading = await _feed(request, asked).latest()
    values = _values(session, asked, reading)
    return page(f"{asked.screen}.html", done=done, **values)


async def _events(
    request: Request, session: Session, asked: Asked, feed: Feed[Any], seconds: float
) -> AsyncIterator[str]:
    yield f"retry: {_AGAIN_MS}\n\n"
    until = time.monotonic() + seconds
    async with aclosing(feed.watch()) as readings:
        while True:
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    reading = await anext(readings)
            except (TimeoutError, StopAsyncIteration):
                return
            if await principal_of(request, session.ticket) is None:
                return  # the next request of the browser finds the door closed
            key = (asked, session.is_admin)
            if key not in reading.made:
                text = render(f"live/{asked.screen}.html", **_values(session, asked, reading))
                reading.made[key] = "".join(f"data: {line}\n" for line in text.splitlines())
            yield f"event: screen\nid: {reading.number}\n{reading.made[key]}\n"


def _feed(request: Request, asked: Asked) -> Feed[Any]:
    if asked.screen is Screen.QUEUES:
        return queues_feed(request)
    of: Callable[[Request, str], Feed[Any]] = (
        leader_feed if asked.screen is Screen.LEADER else queue_feed
    )
    return of(request, asked.queue)


def _values(session: Session, asked: Asked, reading: Reading[Any]) -> dict[str, Any]:
    """Return what the template of a screen is given; the same for all who may do the same."""
    view = reading.value
    values: dict[str, Any] = {
        "session": session,
        "is_admin": session.is_admin,
        "screen": str(asked.screen),
        "asked": asked,
        "view": view,
        "queues": view.queues,
    }
    if asked.screen is Screen.QUEUES:
        return values
    seen: Overview = view.now
    values |= {
        "now": seen,
        "queue": seen.status.queue.name,
        "chart": pace_chart(seen) if asked.screen is Screen.NOW else None,
        "top": _TOP_ORGS,
        "shown": ORGS_SHOWN,
        "orders": list(OrgOrder),
        "orgs": ordered(seen, asked.order)[:ORGS_SHOWN],
    }
    return values


def pace_chart(now: Overview) -> Chart:
    """Return what was admitted and what ended, as curves; without the step that has just begun."""
    steps = now.pace[:-1]
    return chart(
        [step.at for step in steps],
        [
            ("admitted", "in", [step.admitted_per_s for step in steps]),
            ("ended", "out", [step.ended_per_s for step in steps]),
        ],
        "/s",
    )


def ordered(now: Overview, order: OrgOrder) -> Sequence[OrgLoad]:
    """Return the orgs of a queue in this order."""
    found = now.status.orgs
    if order is OrgOrder.OLDEST:
        return sorted(found, key=lambda org: -now.oldest_by_org.get(org.org, -1.0))
    if order is OrgOrder.BACKLOG:
        return sorted(found, key=lambda org: (-org.staged, org.org))
    if order is OrgOrder.NAME:
        return sorted(found, key=lambda org: org.org)
    return found
