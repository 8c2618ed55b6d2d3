"""What is served: the routers, and what surrounds them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from orchestrator.config import Settings
from orchestrator.server import api, dashboard, openapi, problems
from orchestrator.server.auth import Tokens
from orchestrator.server.claiming import serving_claims
from orchestrator.server.limits import Limits
from orchestrator.server.services import Database, Services
from orchestrator.store import tokens

_ABOUT = """\
Enqueue, claim and finish tasks, and see why one waits. Every request carries a token of
`orchestrator token create` as `Authorization: Bearer TOKEN`. Instants are ISO 8601 with a zone,
names that end in `_s` are seconds. Whatever goes wrong is application/problem+json."""

# What adds itself to the app: routers of /v1 register in `api`, pages here.
_MOUNTS: tuple[Callable[[FastAPI], None], ...] = (dashboard.mount,)


def create_app(settings: Settings, dsn: str | None = None) -> FastAPI:
    """Return the app over the database `dsn`, else that of the settings.

    It opens its own small pool when it starts and closes it when it ends.
    """
    app = FastAPI(
        title="orchestrator",
        description=_ABOUT,
        version="1",
        openapi_url="/v1/openapi.json",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=lambda app: _lifespan(app, settings, dsn),
    )
    problems.install(app)
    app.openapi = lambda: openapi.describe(app)  # type: ignore[method-assign]
    app.router.routes.extend(api.routes())
    for mount in _MOUNTS:
        mount(app)
    app.add_middleware(Limits, settings=settings.server, tokens=lambda: app.state.services.tokens)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings, dsn: str | None) -> AsyncIterator[None]:
    pool = settings.database.model_copy(update={"pool_size": settings.server.pool_size})
    own = settings.model_copy(update={"database": pool})
    dsn = dsn or settings.database.url or ""
    async with (
        Database(dsn, settings=own) as database,
        serving_claims(database.do, dsn, settings) as hub,
    ):
        found = Tokens(lambda digest: database.do(tokens.holder(digest)))
        app.state.services = Services(settings, dsn, database, found, hub)
        yield
