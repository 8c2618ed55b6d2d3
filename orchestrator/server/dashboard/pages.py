"""How a page answers: templates that escape everything, strict headers, errors as pages."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
import psycopg
import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from orchestrator.errors import OrchestratorError
from orchestrator.server import problems
from orchestrator.server.dashboard import words

log = structlog.get_logger()

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Names of orgs and payloads stay out of caches, the browser's own among them.
    "Cache-Control": "no-store",
}


class LoginNeeded(Exception):
    """Nobody is logged in; says what the login page should."""


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Return the templates; every value is escaped, and a name that is not given is an error."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator.server.dashboard"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(words.FILTERS)
    made.filters["query"] = lambda pairs: urlencode(
        {name: value for name, value in pairs.items() if value is not None}
    )
    # By its id an element keeps the focus when rows are replaced: wherever the org stands now.
    made.filters["anchor"] = lambda name: quote(name, safe="")
    return made


def render(template: str, **values: Any) -> str:
    """Return a template as text."""
    return environment().get_template(template).render(**values)


def page(template: str, status: int = 200, **values: Any) -> Response:
    """Return a template as a response."""
    return HTMLResponse(render(template, **values), status)


def url(path: str, **query: object) -> str:
    """Return a path of ours with its query; None is left out."""
    known = {name: value for name, value in query.items() if value is not None}
    return f"{quote(path)}?{urlencode(known)}" if known else quote(path)


def see_other(path: str, **query: object) -> Response:
    """Return the answer to a form that was obeyed: look there."""
    return RedirectResponse(url(path, **query), 303)


class Page(APIRoute):
    """A route that answers with a page whatever happens, and with our headers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, with errors turned into pages."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                response = await inner(request)
            except LoginNeeded as needed:
                response = _to_login(request, str(needed))
            except (HTTPException, RequestValidationError, OrchestratorError) as error:
                response = failure(*_told(error, request.path_params))
            except psycopg.Error as error:
                log.error("http.database", error=type(error).__name__)
                response = failure(503, "the database refused a statement: the log says why")
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return handle


def failure(status: int, detail: str) -> Response:
    """Return the page that says what went wrong."""
    title = HTTPStatus(status).phrase
    return page("failure.html", status, title=title, detail=detail, session=None, screen=None)


def _told(error: Exception, named: Mapping[str, Any]) -> tuple[int, str]:
    if isinstance(error, OrchestratorError):
        error = problems.of(error, named)
    if isinstance(error, RequestValidationError):
        wrong = error.errors()[0]
        return 422, f"{'.'.join(map(str, wrong['loc'][1:]))}: {wrong['msg']}"
    assert isinstance(error, HTTPException)
    return error.status_code, str(error.detail)


def _to_login(request: Request, why: str) -> Response:
    if request.headers.get("hx-request") or request.url.path == "/live":
        # Nobody would see a login page there: the script reloads the page it is on.
        return Response(status_code=401)
    path = request.url.path if request.method == "GET" else "/"
    query = f"?{request.url.query}" if request.url.query and request.method == "GET" else ""
    return RedirectResponse(url("/login", then=f"{path}{query}", why=why or None), 303)
