"""Simulate: what a change of the configuration would have done to the dwell of the last day."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from orchestrator.errors import InvalidInput
from orchestrator.policyfile import parse_override
from orchestrator.server.dashboard.pages import Page, page, see_other
from orchestrator.server.dashboard.state import Looker, Sender, dashboard
from orchestrator.server.dashboard.views import chosen, look
from orchestrator.server.dashboard.whatif import TIME_MAX_S
from orchestrator.server.services import services
from orchestrator.store import leadership, orgs
from orchestrator.store.sql import Operation

router = APIRouter(route_class=Page, include_in_schema=False)

WINDOWS = {"1h": ("last hour", 3600.0), "6h": ("last 6 hours", 21600.0),
           "24h": ("last 24 hours", 86400.0)}  # fmt: skip


class Kind(StrEnum):
    """Whose setting is changed."""

    ORG = "org"
    TIER = "tier"


class Field(StrEnum):
    """Which setting is changed."""

    WEIGHT = "weight"
    BURST_MAX = "burst_max"


@router.get("/simulate")
async def ask(
    request: Request,
    session: Looker,
    queue: str = "",
    kind: Kind = Kind.ORG,
    name: str = "",
) -> Response:
    """Show the form."""
    names, tiers = await look(request, _choices(queue))
    return page(
        "simulate.html", session=session, screen="simulate", queues=names,
        queue=queue or names[0], tiers=tiers, kinds=list(Kind), fields=list(Field),
        windows=WINDOWS, kind=kind, name=name, time_max_s=TIME_MAX_S,
    )  # fmt: skip


@router.post("/simulate")
async def begin(request: Request, sent: Sender) -> Response:
    """Begin a simulation and go to its page."""
    window = sent.text("window")
    if window not in WINDOWS:
        raise InvalidInput(f"no time {window!r}: choose one of the form")
    kind, name, field = sent.text("kind"), sent.text("name"), sent.text("field")
    if kind not in list(Kind) or field not in list(Field):
        raise InvalidInput("choose what to change from the form")
    setting = f"{kind}:{name}.{field}={sent.text('value') or 'none'}"
    parse_override(setting)  # a mistake is told now, not by the job
    told, window_s = WINDOWS[window]
    job = dashboard(request).jobs.begin(
        services(request).dsn,
        sent.text("queue"),
        window_s,
        setting,
        told,
    )
    return see_other(f"/simulate/{job.id}")


@router.get("/simulate/{job_id}")
async def show(
    request: Request, session: Looker, job_id: Annotated[str, Path(max_length=40)]
) -> Response:
    """Show how far a simulation is, and what came of it."""
    job = dashboard(request).jobs.find(job_id)
    names, _ = await look(request, _choices(job.asked["queue"]))
    part = "simulation_part.html" if request.headers.get("hx-request") else "simulation.html"
    return page(
        part, session=session, screen="simulate", job=job, queues=names, queue=job.asked["queue"]
    )


def _choices(queue: str) -> Operation:
    queues = yield from leadership.queues()
    chosen(queues, queue)
    tiers = yield from orgs.tiers()
    return tuple(each.name for each in queues), tiers
