"""The routers of /v1, one for each noun."""

from __future__ import annotations

from fastapi import APIRouter

from orchestrator.server.api import claims, tasks
from orchestrator.server.problems import RESPONSES
from orchestrator.server.strictjson import StrictRoute


def router() -> APIRouter:
    """Return everything under /v1."""
    whole = APIRouter(prefix="/v1", route_class=StrictRoute, responses=RESPONSES)
    for module in (tasks, claims):
        whole.include_router(module.router)
    return whole
