"""Orgs: what operators set for the tenants, and what these have in the queues."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Path, Query
from pydantic import ConfigDict, Field

from orchestrator.client.specs import optional_text
from orchestrator.model import (
    BURST_MAX_MIN,
    DEFAULT_TIER,
    NAME_MAX_CHARS,
    WEIGHT_MAX,
    WEIGHT_MIN,
    OrgConfig,
)
from orchestrator.server.api.values import Answer, Body, Name
from orchestrator.server.auth import Admin, Reader
from orchestrator.server.problems import NOT_FOUND
from orchestrator.server.services import Used
from orchestrator.server.strictjson import strict_router
from orchestrator.store import orgs, status

router = strict_router("/orgs", "orgs")

# Names may have slashes and new lines, hence `:name`.
OrgName = Annotated[str, Path(min_length=1, max_length=NAME_MAX_CHARS)]
Weight = Annotated[int, Field(ge=WEIGHT_MIN, le=WEIGHT_MAX)]
Most = Annotated[int, Field(ge=BURST_MAX_MIN, le=2**31 - 1)]


class OrgOut(Answer):
    """An org; null means the tier's."""

    org: str
    tier: str
    weight: int | None
    burst_max: int | None
    backlog_max: int | None
    paused_at: datetime | None
    paused_reason: str | None


class OrgPlacesOut(Answer):
    """What an org has in one queue; `staged` is counted up to 1,000."""

    queue: str
    staged: int
    ready: int
    claimed: int


class OrgDetailOut(OrgOut):
    """An org, and what it has in each queue."""

    queues: list[OrgPlacesOut]


class OrgsOut(Answer):
    """A page of the orgs that are configured, by name."""

    orgs: list[OrgOut]
    next: Annotated[
        str | None, Field(description="Where the next page is; null where this is the last.")
    ]


class OrgIn(Body):
    """What to set; what is left out stays, null returns to the tier's."""

    model_config = ConfigDict(json_schema_extra={"example": {"tier": "premium", "burst_max": 200}})

    tier: Name | None = None
    weight: Weight | None = None
    burst_max: Most | None = None
    backlog_max: Most | None = None


class PauseIn(Body):
    """Why, for whoever asks later."""

    reason: Annotated[str, Field(min_length=1, max_length=4000)] | None = None


class OrgsQuery(Body):
    """Which page of orgs."""

    model_config = ConfigDict(strict=False)

    after: Annotated[str, Field(max_length=NAME_MAX_CHARS)] = ""
    limit: Annotated[int, Field(ge=1, le=10_000)] = 100


@router.get("", operation_id="listOrgs")
async def list_orgs(query: Annotated[OrgsQuery, Query()], principal: Reader, used: Used) -> OrgsOut:
    """List the orgs that are configured, by name; all others have the default tier."""
    if principal.org is not None:
        config = await used.database.do(orgs.get_org(principal.org))
        return OrgsOut(orgs=[OrgOut.model_validate(config)], next=None)
    limit = min(query.limit, used.settings.server.batch_max)
    page: list[OrgConfig] = await used.database.do(orgs.orgs_page(query.after, limit))
    following = None
    if len(page) == limit:
        following = f"/v1/orgs?{urlencode({'after': page[-1].org, 'limit': limit})}"
    return OrgsOut(orgs=[OrgOut.model_validate(config) for config in page], next=following)


@router.get("/{org:name}", operation_id="getOrg", responses=NOT_FOUND)
async def get(org: OrgName, principal: Reader, used: Used) -> OrgDetailOut:
    """Return what is set for an org, and what it has in each queue."""
    principal.seeing(org)
    config = await used.database.do(orgs.get_org(org))
    places = await used.database.do(status.org_places(org))
    fields = OrgOut.model_validate(config).model_dump()
    return OrgDetailOut(**fields, queues=[OrgPlacesOut.model_validate(each) for each in places])


@router.put("/{org:name}", operation_id="setOrg")
async def put(org: OrgName, body: OrgIn, principal: Admin, used: Used) -> OrgOut:
    """Set what an org gets; what is left out stays, null returns to the tier's."""
    fields: dict[str, Any] = body.given()
    if "tier" in fields and fields["tier"] is None:
        fields["tier"] = DEFAULT_TIER
    config = await used.database.do(orgs.set_org(org, **fields, actor=principal.actor), atomic=True)
    return OrgOut.model_validate(config)


@router.post("/{org:name}/pause", operation_id="pauseOrg")
async def pause(org: OrgName, principal: Admin, used: Used, body: PauseIn | None = None) -> OrgOut:
    """Admit nothing more of an org; what is admitted runs on, what is enqueued waits."""
    reason = None if body is None else optional_text("reason", body.reason)
    config = await used.database.do(orgs.pause_org(org, reason, actor=principal.actor), atomic=True)
    return OrgOut.model_validate(config)


@router.post("/{org:name}/resume", operation_id="resumeOrg", responses=NOT_FOUND)
async def resume(org: OrgName, principal: Admin, used: Used) -> OrgOut:
    """Admit an org again."""
    config = await used.database.do(orgs.resume_org(org, actor=principal.actor), atomic=True)
    return OrgOut.model_validate(config)
