"""A server process of the HTTP API over a benchmark's stage, and a client that costs little."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from benchmarks.stage import Stage, wait_for
from orchestrator.config import Settings
from orchestrator.server.process import ServerProcess
from orchestrator.store import tokens
from orchestrator.store.sql import run

# A benchmark sends with one token what otherwise many send.
_RATE_PER_S = 1_000_000


class Api(NamedTuple):
    """Where the server is, and the secret of a token that may do everything."""

    url: str
    secret: str


class Caller:
    """One kept connection; raises where the answer is not a success."""

    def __init__(self, api: Api) -> None:
        parts = urlsplit(api.url)
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self._headers = {
            "Authorization": f"Bearer {api.secret}",
            "Content-Type": "application/json",
        }

    def __call__(self, method: str, path: str, body: object = None) -> Any:
        """Return the answer of one request, decoded."""
        sent = None if body is None else json.dumps(body)
        self._connection.request(method, path, sent, self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")
        return json.loads(text)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@contextmanager
def serving(on: Stage) -> Iterator[Api]:
    """Serve the API over `on` from a process of its own, with default settings but the rate."""
    secret = tokens.new_secret()
    with on.connection.transaction():
        run(on.connection, tokens.create("benchmark", secret, ["admin"], actor="benchmark"))
    settings = Settings.model_validate(
        {"log": {"level": "warning"}, "server": {"rate_per_s": _RATE_PER_S}}
    )
    server = ServerProcess("127.0.0.1:0", on.dsn, settings)
    server.start()
    try:
        api = Api(server.url, secret)
        wait_for(lambda: _answers(api), "the API to answer")
        yield api
    finally:
        server.stop()


def _answers(api: Api) -> bool:
    caller = Caller(api)
    try:
        return bool(caller("GET", "/v1/tiers"))
    except (OSError, RuntimeError):
        return False
    finally:
        caller.close()
