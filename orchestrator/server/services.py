"""What every route may use: the settings, the database, the tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from orchestrator.client import AsyncClient
from orchestrator.client.steps import Work
from orchestrator.config import Settings
from orchestrator.server.auth import Tokens
from orchestrator.server.claiming import Hub
from orchestrator.store.sql import Operation


class Database(AsyncClient):
    """The verbs of a client, and operations of the store that are none of its verbs."""

    async def do(self, operation: Operation, *, atomic: bool = False, pinned: bool = False) -> Any:
        """Run an operation of the store: in one transaction if `atomic`, with plans that do not
        depend on statistics if `pinned`.
        """
        return await self._work(Work(operation=operation, atomic=atomic, pinned=pinned))

    def in_queue(self, name: str, act: Callable[[int], Operation]) -> Operation:
        """Look the queue up, then act in it; raises `UnknownQueue`."""
        queue_id = yield from self._queue_id(name)
        return (yield from act(queue_id))


@dataclass(frozen=True, slots=True)
class Services:
    """What lives as long as the server process."""

    settings: Settings
    dsn: str
    database: Database
    tokens: Tokens
    hub: Hub


def services(request: Request) -> Services:
    """Return the services of the app that serves this request."""
    found: Services = request.app.state.services
    return found


async def _services(request: Request) -> Services:
    return services(request)


# A coroutine, though it awaits nothing: FastAPI runs plain functions on threads.
Used = Annotated[Services, Depends(_services)]
