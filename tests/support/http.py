"""The HTTP API over a test's database, served as in production, from a thread of the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import psycopg

from orchestrator.config import Settings
from orchestrator.server.child import Server, config
from orchestrator.server.claiming import Hub
from orchestrator.store import tokens
from orchestrator.store.sql import run
from tests.support.waiting import PATIENCE_S


class Served:
    """A server, and clients with tokens for it."""

    def __init__(self, url: str, dsn: str, opened: ExitStack, server: Server) -> None:
        self.url = url
        self.server = server
        self.dsn = dsn
        self._opened = opened
        self._made = 0

    @property
    def hub(self) -> Hub:
        """Return the hub of its claims, once it has started."""
        app: Any = self.server.config.app
        found: Hub = app.state.services.hub
        return found

    def token(self, *scopes: str, org: str | None = None, name: str | None = None) -> str:
        """Return the secret of a new token."""
        self._made += 1
        secret = tokens.new_secret()
        create = tokens.create(name or f"test {self._made}", secret, scopes, org=org, actor="test")
        with psycopg.connect(self.dsn) as connection:
            run(connection, create)
        return secret

    def client(self, *scopes: str, org: str | None = None, name: str | None = None) -> httpx.Client:
        """Return a client with a new token of these scopes; with none, one without a token."""
        headers = {}
        if scopes:
            headers["Authorization"] = f"Bearer {self.token(*scopes, org=org, name=name)}"
        client = httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S)
        return self._opened.enter_context(client)


@contextmanager
def serving(dsn: str, **server: Any) -> Iterator[Served]:
    """Serve the API over `dsn`, with these settings of the section `server`."""
    settings = Settings.model_validate({"database": {"url": dsn}, "server": server})
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    made = Server(config(settings))
    thread = threading.Thread(target=made.run, args=([listening],), name="http")
    with ExitStack() as opened:
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{port}", dsn, opened, made)
        finally:
            opened.close()
            made.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def problem(response: httpx.Response, status: int, name: str) -> dict[str, Any]:
    """Return the body of an answer that must be this problem."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"urn:orchestrator:{name}", body
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body
