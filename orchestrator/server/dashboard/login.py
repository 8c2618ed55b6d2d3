"""The door: a token, typed once, opens a session; logging out ends it."""

from __future__ import annotations

import secrets
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request, Response

from orchestrator.server.dashboard.pages import Page, page, see_other
from orchestrator.server.dashboard.session import SESSION_S, cookie_name, is_same_origin, is_secure
from orchestrator.server.dashboard.state import Sender, dashboard, find_session, principal_of
from orchestrator.server.problems import forbidden
from orchestrator.server.services import services
from orchestrator.store.tokens import Scope, digest

router = APIRouter(route_class=Page, include_in_schema=False)

_DOOR_COOKIE = "orchestrator_door"
_DOOR_S = 3600
_TOKEN_MAX_CHARS = 200


@router.get("/login")
async def ask(
    request: Request,
    then: Annotated[str, Query(max_length=2000)] = "/",
    why: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Show the form; somebody who is logged in goes on."""
    if await find_session(request) is not None:
        return see_other("/")
    known = {"your session is over: log in again", "you have logged out"}
    return _form(request, _safe(then), why if why in known else "")


@router.post("/login")
async def enter(request: Request) -> Response:
    """Open a session for a token that may look."""
    form = await request.form(max_files=0, max_fields=10)
    seals = dashboard(request).seals
    nonce = request.cookies.get(_DOOR_COOKIE, "").encode("utf-8", "surrogatepass")
    then = _safe(str(form.get("then", "/")))
    if not is_same_origin(request):
        raise forbidden("another site sent this form: open the login page yourself")
    if not nonce or not seals.is_form(form.get("csrf"), nonce):
        return _form(request, then, "this page was open for too long: try again", 403)
    secret = str(form.get("token", "")).strip()
    holder = None
    if 0 < len(secret) <= _TOKEN_MAX_CHARS:
        holder = await services(request).tokens.holder(digest(secret))
    if holder is None:
        return _form(request, then, "this token is unknown, expired or revoked", 403)
    cookie, ticket = seals.cookie(holder.digest)
    if await principal_of(request, ticket) is None:
        why = (
            f"this token is bound to org {holder.org!r}, and the dashboard shows every org: "
            "use the HTTP API with it"
            if holder.org is not None
            else f"this token may not look: it needs the scope {Scope.READER} or {Scope.ADMIN}"
        )
        return _form(request, then, why, 403)
    response = see_other("/") if then == "/" else Response(status_code=303)
    response.headers["Location"] = then
    response.set_cookie(
        cookie_name(request),
        cookie,
        max_age=SESSION_S,
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="strict",
    )
    response.delete_cookie(_DOOR_COOKIE, path="/login")
    return response


@router.post("/logout")
async def leave(request: Request, _sent: Sender) -> Response:
    """End the session in this browser."""
    response = see_other("/login", why="you have logged out")
    response.delete_cookie(
        cookie_name(request), path="/", secure=is_secure(request), httponly=True, samesite="strict"
    )
    return response


def _form(request: Request, then: str, why: str, status: int = 200) -> Response:
    nonce = secrets.token_urlsafe(16)
    csrf = dashboard(request).seals.form(nonce.encode())
    response = page(
        "login.html", status, then=then, why=why, csrf=csrf, session=None, screen="login"
    )
    response.set_cookie(
        _DOOR_COOKIE,
        nonce,
        max_age=_DOOR_S,
        path="/login",
        secure=is_secure(request),
        httponly=True,
        samesite="strict",
    )
    return response


def _safe(then: str) -> str:
    """Return a path of ours to go on to, never another host's."""
    parts = urlsplit(then)
    ours = then.startswith("/") and not then.startswith(("//", "/\\"))
    fit = ours and not parts.scheme and not parts.netloc and then.isascii() and then.isprintable()
    return then if fit and "\\" not in then else "/"
