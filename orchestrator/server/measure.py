"""Counts the requests of this process, by what is bounded: method, route template, status."""

from __future__ import annotations

from starlette.types import Scope

from orchestrator.telemetry import metrics

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
# What no route was found for: refused before that, or no such path.
_NO_ROUTE = "none"
# Whoever hung up before there was an answer; as proxies write it.
_HUNG_UP = 499


def count(scope: Scope, status: int | None, took_s: float) -> None:
    """Count one request that is over; the router has left its route in the scope."""
    route = getattr(scope.get("route"), "path", _NO_ROUTE)
    method = scope["method"] if scope["method"] in _METHODS else metrics.OTHER
    metrics.HTTP_REQUESTS.labels(method, route, str(status or _HUNG_UP)).inc()
    metrics.HTTP_DURATION.observe(took_s, method, route)
