"""The routes of /v1, a module for each noun."""

from __future__ import annotations

from starlette.routing import BaseRoute

from orchestrator.server.api import claims, classes, orgs, queues, tasks


def routes() -> list[BaseRoute]:
    """Return everything under /v1."""
    modules = (tasks, claims, orgs, classes, queues)
    return [route for module in modules for route in module.router.routes]
