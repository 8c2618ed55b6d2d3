"""Where the pages hang in the app."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse

from orchestrator.server.dashboard import login, org, queue, screens, simulate, task
from orchestrator.server.dashboard.pages import HEADERS, Page, failure
from orchestrator.server.dashboard.state import Dashboard

_STATIC = files("orchestrator.server.dashboard").joinpath("static")
_KINDS = {
    "style.css": "text/css",
    "live.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "vendor/htmx.min.js": "text/javascript",
    "vendor/uplot.min.js": "text/javascript",
    "vendor/uplot.min.css": "text/css",
}

_files = APIRouter(route_class=Page, include_in_schema=False)


def mount(app: FastAPI) -> None:
    """Add the dashboard to `app`."""
    app.state.dashboard = Dashboard()
    for each in (login, screens, org, task, queue, simulate):
        app.include_router(each.router)
    app.include_router(_files)


@_files.get("/static/{path:path}")
async def static(request: Request, path: str) -> Response:
    """Return one of our few files; nothing of them is secret."""
    kind = _KINDS.get(path)
    if kind is None:
        return failure(404, "no such file")
    return FileResponse(str(_STATIC.joinpath(path)), media_type=kind, headers=HEADERS)
