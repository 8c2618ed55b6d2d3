"""What every route may use: the settings, the database, the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from orchestrator.client import AsyncClient
from orchestrator.client.steps import Work
from orchestrator.config import Settings
from orchestrator.server.auth import Tokens
from orchestrator.store.sql import Operation


class Database(AsyncClient):
    """The verbs of a client, and operations of the store that are none of its verbs."""

    async def do(self, operation: Operation, *, atomic: bool = False) -> Any:
        """Run an operation of the store; with `atomic`, in a transaction of its own."""
        return await self._work(Work(operation=operation, atomic=atomic))


@dataclass(frozen=True, slots=True)
class Services:
    """What lives as long as the server process."""

    settings: Settings
    database: Database
    tokens: Tokens


def services(request: Request) -> Services:
    """Return the services of the app that serves this request."""
    found: Services = request.app.state.services
    return found


async def _services(request: Request) -> Services:
    return services(request)


# A coroutine, though it awaits nothing: FastAPI runs plain functions on threads.
Used = Annotated[Services, Depends(_services)]
