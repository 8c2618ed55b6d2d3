"""Whatever goes wrong, as application/problem+json (RFC 9457): never a page, never a traceback.

`type` is a URN that stays, for programs; `detail` is the sentence of the error, for people; where
fields are wrong, `errors` names each of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import fastapi
import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from orchestrator import errors

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
_URN = "urn:orchestrator:"
# What one answer says of a body with thousands of mistakes.
_ERRORS_MAX = 20
_RETRY_S = 1

# Status and name for each of our errors; the first that fits.
_KNOWN: tuple[tuple[type[errors.OrchestratorError], int, str], ...] = (
    (errors.InvalidInput, 422, "invalid-input"),
    (errors.TaskNotFound, 404, "task-not-found"),
    (errors.UnknownOrg, 404, "unknown-org"),
    (errors.UnknownQueue, 422, "unknown-queue"),
    (errors.UnknownWorkload, 422, "unknown-workload"),
    (errors.UnknownTier, 422, "unknown-tier"),
    (errors.IdempotencyConflict, 409, "idempotency-conflict"),
    (errors.TaskUnfinished, 409, "task-unfinished"),
    (errors.LeaseLost, 409, "lease-lost"),
    (errors.BacklogFull, 429, "backlog-full"),
    (errors.DatabaseUnavailable, 503, "database-unavailable"),
    (errors.SchemaMismatch, 503, "schema-mismatch"),
    # What is left is about this process and its surroundings, never about what was asked.
    (errors.OrchestratorError, 503, "unavailable"),
)
# Where a path names the thing, its absence is the answer, not a mistake of the body.
_NAMED_BY_PATH = {"unknown-queue": "queue", "unknown-workload": "workload", "unknown-tier": "tier"}


class ProblemBody(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:orchestrator:invalid-input",
                "title": "Unprocessable Entity",
                "status": 422,
                "detail": "priority: Input should be less than or equal to 10",
                "errors": [
                    {"field": "priority", "detail": "Input should be less than or equal to 10"}
                ],
            }
        }
    )

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = None


class FieldError(BaseModel):
    """One field that is wrong."""

    field: str
    detail: str


class Problem(fastapi.HTTPException):
    """An answer that says no; may be raised anywhere below the app, also while a body is read:
    there FastAPI lets nothing else through than an exception of its own.
    """

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(status, detail, headers)
        self.name = name
        self.errors = errors


def answer(problem: Problem) -> Response:
    """Return the response that says this."""
    body: dict[str, Any] = {
        "type": _URN + problem.name,
        "title": HTTPStatus(problem.status_code).phrase,
        "status": problem.status_code,
        "detail": problem.detail,
    }
    if problem.errors:
        body["errors"] = problem.errors
    headers = dict(problem.headers or {})
    if problem.status_code in (408, 413):
        headers["Connection"] = "close"  # whatever else comes of this body is not read
    # ASCII: a detail may quote what no other encoding can hold.
    return Response(json.dumps(body), problem.status_code, headers, media_type=MEDIA_TYPE)


def of(error: errors.OrchestratorError, named: Mapping[str, Any]) -> Problem:
    """Return the problem that an error of ours is, for a path that names these things."""
    status, name = next((status, name) for kind, status, name in _KNOWN if isinstance(error, kind))
    if _NAMED_BY_PATH.get(name) in named:
        status = 404
    retry_s = error.retry_after_s if isinstance(error, errors.BacklogFull) else _RETRY_S
    headers = {"Retry-After": f"{retry_s:.0f}"} if status in (429, 503) else None
    return Problem(status, name, str(error), headers=headers)


def unauthorized(detail: str) -> Problem:
    """Return the problem of a request without a valid token."""
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


def forbidden(detail: str) -> Problem:
    """Return the problem of a token that may not do this."""
    return Problem(403, "forbidden", detail)


def rate_limited(detail: str, wait_s: float) -> Problem:
    """Return the problem of what comes too often, and may come again in `wait_s` seconds."""
    return Problem(429, "rate-limited", detail, headers={"Retry-After": str(math.ceil(wait_s))})


def install(app: FastAPI) -> None:
    """Let `app` answer every error as a problem."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(errors.OrchestratorError, _ours)
    app.add_exception_handler(psycopg.Error, _drivers)
    app.add_exception_handler(Exception, _unexpected)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error, Problem):
        return answer(error)
    name = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    detail = str(error.detail)
    if error.status_code == 404:
        detail = "nothing is served at this path: /v1/openapi.json describes what is"
    if error.status_code == 405:
        detail = f"{request.method} is not served at this path"
    return answer(Problem(error.status_code, name, detail, headers=error.headers))


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        {"field": _field(each["loc"]), "detail": str(each["msg"]).removeprefix("Value error, ")}
        for each in error.errors()[:_ERRORS_MAX]
    ]
    detail = "; ".join(f"{each['field']}: {each['detail']}" for each in found[:3])
    return answer(Problem(422, "invalid-input", detail, errors=found))


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.OrchestratorError)
    return answer(of(error, request.path_params))


async def _drivers(_request: Request, error: Exception) -> Response:
    if isinstance(error, psycopg.DataError):
        return answer(
            Problem(422, "invalid-input", "the database cannot store a value of this request")
        )
    log.error("http.database", error=type(error).__name__, reason=str(error).split("\n", 1)[0])
    detail = "the database refused a statement of this server: its log says why"
    return answer(Problem(503, "unavailable", detail, headers={"Retry-After": str(_RETRY_S)}))


async def _unexpected(_request: Request, _error: Exception) -> Response:
    # Logged, with where it happened, by whoever surrounds the app.
    return answer(Problem(500, "internal", "this server made a mistake: its log says which"))


def _field(loc: Sequence[object]) -> str:
    parts = [str(part) for part in loc[1:]] or [str(part) for part in loc]
    return ".".join(parts)


def _documented(description: str) -> dict[str, Any]:
    return {"description": description, "model": ProblemBody}


RESPONSES: dict[int | str, dict[str, Any]] = {
    400: _documented("The body is not JSON"),
    401: _documented("No valid token"),
    403: _documented("The token may not do this"),
    413: _documented("Too large"),
    422: _documented("A field is wrong; nothing was stored"),
    429: _documented("Too much at once: try again after Retry-After seconds"),
    503: _documented("Try again after Retry-After seconds"),
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: _documented("There is no such thing")}
CONFLICT: dict[int | str, dict[str, Any]] = {409: _documented("It conflicts with what is there")}
