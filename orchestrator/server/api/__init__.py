"""The routers of /v1, one for each noun."""

from __future__ import annotations

from fastapi import APIRouter

from orchestrator.server.api import claims, classes, orgs, queues, tasks
from orchestrator.server.problems import RESPONSES
from orchestrator.server.strictjson import strict


def router() -> APIRouter:
    """Return everything under /v1."""
    whole = APIRouter(prefix="/v1", responses=RESPONSES)
    for module in (tasks, claims, orgs, classes, queues):
        whole.include_router(strict(module.router))
    return whole
