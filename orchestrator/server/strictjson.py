"""Bodies as JSON, strictly: what one reader would take for this and another for that is refused.

Python's decoder accepts NaN, infinities (also as 1e400), duplicate keys and lone surrogates; other
decoders, PostgreSQL among them, do not, or read something else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from orchestrator.server.problems import RESPONSES, Problem

# Escapes of surrogates: rare, and only then is it worth looking whether one stands alone.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def loads(body: bytes) -> Any:
    """Return the JSON value of a body; raise a 400 `Problem` that says what is wrong and where."""
    try:
        value = json.loads(
            body.decode(),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
        )
        if _SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise _refused(f"is not UTF-8 at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise _refused("has text that is not valid Unicode (a lone surrogate)") from error
    except json.JSONDecodeError as error:
        raise _refused(f"is not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise _refused("is nested too deep: flatten it") from error
    except ValueError as error:
        # Python's limit on the digits of an integer.
        raise _refused("has an integer of thousands of digits: send it as a string") from error
    return value


class StrictRequest(Request):
    """A request whose JSON is read strictly."""

    async def json(self) -> Any:
        """Return the body decoded."""
        if not hasattr(self, "_json"):
            self._json = loads(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """A route that reads its bodies strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route, given strict requests."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict


def strict_router(prefix: str, tag: str) -> APIRouter:
    """Return a router of strict routes under /v1.

    Its routes are complete, for the app to take as its own: those of a router that it includes are
    looked for anew at each level, twice for each request.
    """
    return APIRouter(
        prefix=f"/v1{prefix}",
        tags=[tag],
        responses=RESPONSES,
        route_class=StrictRoute,
        generate_unique_id_function=_operation_id,
    )


def _operation_id(route: APIRoute) -> str:
    return route.name


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _refused(f"has the key {key[:100]!r} twice in one object")
            seen.add(key)
    return made


def _constant(text: str) -> NoReturn:
    raise _refused(f"has {text}, which is no JSON number")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _refused(f"has the number {text[:40]}, which is too large")
    return number


def _refused(what: str) -> Problem:
    return Problem(400, "invalid-json", f"the body {what}")
