"""Tiers and workloads: the classes of orgs, and of their own work."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import ConfigDict, Field

from orchestrator.model import NAME_MAX_CHARS
from orchestrator.server.api.orgs import Most, Weight
from orchestrator.server.api.values import Answer, Body
from orchestrator.server.auth import Admin, Reader
from orchestrator.server.services import Used
from orchestrator.server.strictjson import strict_router
from orchestrator.store import orgs

router = strict_router("", "configuration")

ClassName = Annotated[str, Path(min_length=1, max_length=NAME_MAX_CHARS)]
Rank = Annotated[int, Field(ge=0, le=10_000)]


class TierOut(Answer):
    """L1: a class of orgs."""

    name: str
    weight: int
    rank: int
    burst_max: int | None
    backlog_max: int | None


class TiersOut(Answer):
    """Every tier, best rank first."""

    tiers: list[TierOut]


class TierIn(Body):
    """What to set; what is left out stays, a burst_max or backlog_max of null means no bound."""

    model_config = ConfigDict(json_schema_extra={"example": {"weight": 5, "rank": 2}})

    weight: Weight | None = None
    rank: Rank | None = None
    burst_max: Most | None = None
    backlog_max: Most | None = None


class WorkloadOut(Answer):
    """L2: a class of an org's own work."""

    name: str
    share: int
    rank: int
    express: bool
    express_max_s: float | None


class WorkloadsOut(Answer):
    """Every workload, best rank first."""

    workloads: list[WorkloadOut]


class WorkloadIn(Body):
    """What to set; what is left out stays, an express_max_s of null means no bound."""

    model_config = ConfigDict(json_schema_extra={"example": {"share": 1, "rank": 3}})

    share: Weight | None = None
    rank: Rank | None = None
    express: bool | None = None
    express_max_s: Annotated[float, Field(gt=0, le=3650 * 86400)] | None = None


@router.get("/tiers", operation_id="listTiers")
async def list_tiers(principal: Reader, used: Used) -> TiersOut:
    """List the tiers, best rank first."""
    principal.check_unbound()
    found = await used.database.do(orgs.tiers())
    return TiersOut(tiers=[TierOut.model_validate(each) for each in found])


@router.put("/tiers/{tier:name}", operation_id="setTier")
async def set_tier(tier: ClassName, body: TierIn, principal: Admin, used: Used) -> TierOut:
    """Create or change a tier."""
    operation = orgs.set_tier(tier, **body.given(), actor=principal.actor)
    return TierOut.model_validate(await used.database.do(operation, atomic=True))


@router.get("/workloads", operation_id="listWorkloads")
async def list_workloads(principal: Reader, used: Used) -> WorkloadsOut:
    """List the workloads, best rank first."""
    principal.check_unbound()
    found = await used.database.do(orgs.workloads())
    return WorkloadsOut(workloads=[WorkloadOut.model_validate(each) for each in found])


@router.put("/workloads/{workload:name}", operation_id="setWorkload")
async def set_workload(
    workload: ClassName, body: WorkloadIn, principal: Admin, used: Used
) -> WorkloadOut:
    """Create or change a workload."""
    operation = orgs.set_workload(workload, **body.given(), actor=principal.actor)
    return WorkloadOut.model_validate(await used.database.do(operation, atomic=True))
