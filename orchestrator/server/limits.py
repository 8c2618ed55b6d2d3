"""What surrounds the app: every request is bounded in number, size and time before it is served.

In this order: too many requests at once (503), no valid token (401), too many from this token
(429), a body that is announced too large (413). Only then is a body read at all, in bounded size
and time. One log line a request, without its payload, query or token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.config import ServerSettings
from orchestrator.errors import OrchestratorError
from orchestrator.server import measure, problems
from orchestrator.server.auth import Principal, Tokens
from orchestrator.server.problems import Problem, rate_limited
from orchestrator.server.rates import Rates
from orchestrator.text import printable

log = structlog.get_logger()

# What this surrounds with tokens; everything else sees to its own callers.
API_PREFIX = "/v1/"
OPEN_PATHS = frozenset({"/v1/openapi.json"})
# Set in a request's state by a route that found nothing to do: its log line is for debugging.
UNEVENTFUL = "uneventful"
_EVENTS = b"text/event-stream"
_PATH_SHOWN_MAX = 200


class Limits:
    """Middleware around the app; `tokens` is asked for when the first request comes."""

    def __init__(
        self, app: ASGIApp, *, settings: ServerSettings, tokens: Callable[[], Tokens]
    ) -> None:
        self._app = app
        self._settings = settings
        self._tokens = tokens
        self._rates = Rates(settings.rate_per_s)
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request within its limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = asyncio.timeout(self._settings.request_timeout_s)
        reply = _Reply(send, limit)
        began = time.monotonic()
        self._under_way += 1
        try:
            async with limit:
                try:
                    await self._serve(scope, receive, reply)
                except Problem as problem:
                    await self._answer(problem, scope, receive, reply)
                except OrchestratorError as error:
                    await self._answer(problems.of(error, {}), scope, receive, reply)
        except TimeoutError:
            detail = "this took too long and was given up: what came of it is unknown"
            await self._answer(Problem(503, "timeout", detail), scope, receive, reply)
        except Exception:
            log.exception("http.failed", method=scope["method"], path=_shown(scope["path"]))
            await self._answer(
                Problem(500, "internal", "this server made a mistake: its log says which"),
                scope,
                receive,
                reply,
            )
        finally:
            self._under_way -= 1
            took_s = time.monotonic() - began
            measure.count(scope, reply.status, took_s)
            _log(scope, reply.status, took_s)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._under_way > self._settings.requests_max:
            detail = "too many requests are under way here (server.requests_max)"
            raise Problem(503, "busy", detail, headers={"Retry-After": "1"})
        if (
            sum(len(key) + len(value) for key, value in scope["headers"])
            + len(scope["query_string"])
            > self._settings.header_bytes_max
        ):
            detail = "the headers are too large (server.header_bytes_max)"
            raise Problem(431, "headers-too-large", detail)
        path = scope["path"]
        if path.startswith(API_PREFIX) and path not in OPEN_PATHS:
            principal = await self._tokens().principal(_header(scope, b"authorization"))
            scope.setdefault("state", {})["principal"] = principal
            self._check_rate(principal)
            _check_address(scope)
        bounded = _Body(receive, self._settings)
        bounded.check_announced(_header(scope, b"content-length"))
        await self._app(scope, bounded.receive, send)

    def _check_rate(self, principal: Principal) -> None:
        wait_s = self._rates.wait_s(principal.name)
        if wait_s > 0:
            raise rate_limited(
                f"this token sends more than {self._settings.rate_per_s} requests a second "
                "(server.rate_per_s)",
                wait_s,
            )

    async def _answer(
        self, problem: Problem, scope: Scope, receive: Receive, reply: _Reply
    ) -> None:
        if reply.status is not None:
            return  # the rest of an answer that has begun cannot be another one
        await problems.answer(problem)(scope, receive, reply)


def _check_address(scope: Scope) -> None:
    """Refuse escapes that are no text: decoding replaces them, and two names would become one."""
    for part in (scope.get("raw_path") or b"", scope["query_string"]):
        if b"%" not in part:
            continue
        try:
            unquote_to_bytes(part).decode()
        except UnicodeDecodeError as error:
            detail = "the address has escapes that are not UTF-8"
            raise Problem(400, "invalid-address", detail) from error


class _Body:
    """A body that is cut off when it grows too large or comes too slowly."""

    def __init__(self, receive: Receive, settings: ServerSettings) -> None:
        self._receive = receive
        self._settings = settings
        self._bytes = 0
        self._whole = False
        self._deadline = time.monotonic() + settings.body_timeout_s

    def check_announced(self, length: str | None) -> None:
        """Raise a 413 `Problem` before anything is read, where the client says how much comes."""
        if length is not None and length.isdecimal() and len(length) < 20:
            self._check(int(length))

    async def receive(self) -> Message:
        """Return the next message, as the app expects it."""
        if self._whole:  # what comes now is that the client hung up, whenever it does
            return await self._receive()
        left_s = max(0.0, self._deadline - time.monotonic())
        try:
            async with asyncio.timeout(left_s):
                message = await self._receive()
        except TimeoutError as error:
            raise Problem(
                408, "body-timeout", "the body came too slowly (server.body_timeout_s)"
            ) from error
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self._check(self._bytes)
            self._whole = not message.get("more_body", False)
        return message

    def _check(self, size: int) -> None:
        most = self._settings.body_bytes_max
        if size > most:
            raise Problem(
                413,
                "body-too-large",
                f"the body has more than {most} bytes (server.body_bytes_max): send less at once",
            )


class _Reply:
    """`send`, which remembers the status that was sent, and lets a stream of events go on."""

    def __init__(self, send: Send, limit: asyncio.Timeout) -> None:
        self._send = send
        self._limit = limit
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if any(_EVENTS in value for _, value in message["headers"]):
                self._limit.reschedule(None)
        await self._send(message)


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


def _log(scope: Scope, status: int | None, took_s: float) -> None:
    state = scope.get("state", {})
    principal = state.get("principal")
    # Daemons poll all day, and mostly there is nothing.
    tell = log.debug if state.get(UNEVENTFUL) else log.info
    tell(
        "http.request",
        method=scope["method"],
        path=_shown(scope["path"]),
        status=status,
        took_ms=round(took_s * 1000, 1),
        client=(scope.get("client") or ("-",))[0],
        token=principal.name if isinstance(principal, Principal) else None,
    )


def _shown(path: str) -> str:
    return printable(path[:_PATH_SHOWN_MAX])
