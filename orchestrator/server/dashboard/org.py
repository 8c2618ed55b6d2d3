"""One org: what it holds, what it was admitted, and what may be changed of it.

A change is asked for on one page and confirmed on the next, which says what is before and what
comes after. Only the confirmation, a POST, changes anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request, Response

from orchestrator.errors import InvalidInput
from orchestrator.model import DEFAULT_TIER, OrgConfig, QueueConfig, Tier
from orchestrator.server.dashboard.chart import chart
from orchestrator.server.dashboard.pages import Page, page, see_other
from orchestrator.server.dashboard.screens import QueueName
from orchestrator.server.dashboard.state import Changer, Looker, dashboard
from orchestrator.server.dashboard.views import chosen, look
from orchestrator.server.services import services
from orchestrator.store import leadership, orgs, overview
from orchestrator.store.overview import AuditLine, OrgQueue
from orchestrator.store.sql import Operation
from orchestrator.store.tasks import TaskLine

router = APIRouter(route_class=Page, include_in_schema=False)

_TASKS = 15
_CHANGES = 15
_HISTORY_S = 1800.0
_STEP_S = 30
_REASON_MAX = 500
_TIERS_VALUE = ""

OrgName = Annotated[str, Query(min_length=1, max_length=200)]


class Verb(StrEnum):
    """What may be done to an org."""

    PAUSE = "pause"
    RESUME = "resume"
    SET = "set"


@dataclass(frozen=True, slots=True)
class OrgView:
    """One org, as of one moment."""

    queues: tuple[str, ...]
    queue: QueueConfig
    config: OrgConfig
    tier: Tier
    tiers: Sequence[Tier]
    holds: Sequence[OrgQueue]
    pace: dict[datetime, float]
    tasks: Sequence[TaskLine]
    audit: Sequence[AuditLine]

    @property
    def weight(self) -> int:
        """Return the weight in force."""
        return self.tier.weight if self.config.weight is None else self.config.weight

    @property
    def burst_max(self) -> int | None:
        """Return the cap in force."""
        return self.tier.burst_max if self.config.burst_max is None else self.config.burst_max


@dataclass(frozen=True, slots=True)
class Wish:
    """What an org shall have; an empty field is the tier's value."""

    tier: str
    weight: int | None
    burst_max: int | None

    @classmethod
    def of(cls, tier: str, weight: str, burst_max: str) -> Wish:
        """Return what the fields of a form say; raise `InvalidInput`."""
        own_weight = _number("weight", weight)
        cap = _number("burst_max", burst_max)
        return cls(
            tier,
            None if own_weight is None else orgs.check_weight(own_weight),
            None if cap is None else orgs.check_burst_max(cap),
        )


@router.get("/org")
async def show(
    request: Request, session: Looker, name: OrgName, queue: QueueName = "", done: str = ""
) -> Response:
    """Show one org."""
    view: OrgView = await look(request, _view(orgs.check_name("org", name), queue))
    curve = chart(list(view.pace), [("admitted", "in", list(view.pace.values()))], "/s")
    return page(
        "org.html", session=session, screen="orgs", view=view, queues=view.queues,
        queue=view.queue.name, chart=curve, done=done,
    )  # fmt: skip


@router.get("/org/pause")
async def ask_pause(
    request: Request, session: Looker, name: OrgName, queue: QueueName = ""
) -> Response:
    """Ask whether to pause an org."""
    return await _confirm(request, session, Verb.PAUSE, name, queue)


@router.get("/org/resume")
async def ask_resume(
    request: Request, session: Looker, name: OrgName, queue: QueueName = ""
) -> Response:
    """Ask whether to resume an org."""
    return await _confirm(request, session, Verb.RESUME, name, queue)


@router.get("/org/set")
async def ask_set(
    request: Request,
    session: Looker,
    quoted: Annotated[str, Query(max_length=3000)],
    tier: Annotated[str, Query(max_length=200)],
    queue: QueueName = "",
    weight: Annotated[str, Query(max_length=20)] = _TIERS_VALUE,
    burst_max: Annotated[str, Query(max_length=20)] = _TIERS_VALUE,
) -> Response:
    """Ask whether to set tier, weight and burst_max of an org."""
    wish = Wish.of(tier, weight.strip(), burst_max.strip())
    # Browsers turn a line break of a field into another one; what is quoted has none.
    name = dict(parse_qsl(quoted, keep_blank_values=True)).get("name", "")
    return await _confirm(request, session, Verb.SET, name, queue, wish)


@router.post("/org/pause")
async def pause(request: Request, sent: Changer, name: OrgName, queue: QueueName = "") -> Response:
    """Admit nothing more of an org."""
    reason = sent.text("reason")[:_REASON_MAX] or None
    operation = orgs.pause_org(name, reason, actor=sent.session.principal.actor)
    return await _obey(request, operation, name, queue, "paused")


@router.post("/org/resume")
async def resume(request: Request, sent: Changer, name: OrgName, queue: QueueName = "") -> Response:
    """Admit an org again."""
    operation = orgs.resume_org(name, actor=sent.session.principal.actor)
    return await _obey(request, operation, name, queue, "resumed")


@router.post("/org/set")
async def change(request: Request, sent: Changer, name: OrgName, queue: QueueName = "") -> Response:
    """Set tier, weight and burst_max of an org."""
    wish = Wish.of(sent.text("tier"), sent.text("weight"), sent.text("burst_max"))
    operation = orgs.set_org(
        name,
        tier=wish.tier,
        weight=wish.weight,
        burst_max=wish.burst_max,
        actor=sent.session.principal.actor,
    )
    return await _obey(request, operation, name, queue, "set")


async def _confirm(
    request: Request, session: Looker, verb: Verb, name: str, queue: str, wish: Wish | None = None
) -> Response:
    view: OrgView = await look(request, _view(orgs.check_name("org", name), queue))
    after: Tier | None = None
    if wish is not None:
        after = next((tier for tier in view.tiers if tier.name == wish.tier), None)
        if after is None:
            raise InvalidInput(f"no tier {wish.tier!r}")
    values: dict[str, Any] = {"verb": verb, "wish": wish, "after": after}
    return page(
        "org_confirm.html", session=session, screen="orgs", view=view, queues=view.queues,
        queue=view.queue.name, **values,
    )  # fmt: skip


async def _obey(
    request: Request, operation: Operation, name: str, queue: str, done: str
) -> Response:
    await services(request).database.do(operation, atomic=True)
    dashboard(request).feeds.expire()
    return see_other("/org", name=name, queue=queue or None, done=done)


def _view(name: str, queue_name: str) -> Operation:
    queues = yield from leadership.queues()
    queue = chosen(queues, queue_name)
    config = yield from orgs.get_org(name)
    tiers = yield from orgs.tiers()
    holds = yield from overview.org_queues(name)
    pace = yield from overview.org_pace(queue.id, name, _HISTORY_S, _STEP_S)
    tasks = yield from overview.tasks_of_org(queue.id, name, _TASKS)
    audit = yield from overview.audit(_CHANGES, of=name)
    tier = next(each for each in tiers if each.name == (config.tier or DEFAULT_TIER))
    names = tuple(each.name for each in queues)
    return OrgView(names, queue, config, tier, tiers, holds, pace, tasks, audit)


def _number(kind: str, text: str) -> int | None:
    """Return a whole number, None for an empty field; raise `InvalidInput`."""
    if text in ("", "none"):
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise InvalidInput(f"{kind} must be a whole number, or empty for the tier's: not {text!r}")
    return int(text)
