"""What surrounds the app, with apps of the test's own inside."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.config import ServerSettings
from orchestrator.server.limits import Limits

SCOPE: Scope = {
    "type": "http",
    "method": "GET",
    "path": "/page",
    "query_string": b"",
    "headers": [],
}


class Asked:
    """One request of the app, and what it answers."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def problem(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.sent[1]["body"])
        return found


def around(app: ASGIApp, **settings: Any) -> Limits:
    def tokens() -> Any:
        raise AssertionError("pages see to their own callers")

    return Limits(app, settings=ServerSettings.model_construct(**settings), tokens=tokens)


async def ask(limits: Limits) -> Asked:
    asked = Asked()
    await limits(dict(SCOPE), asked.receive, asked.send)
    return asked


def test_what_takes_too_long_is_given_up() -> None:
    async def never(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    asked = asyncio.run(ask(around(never, request_timeout_s=0.01)))
    assert (asked.status, asked.problem["type"]) == (503, "urn:orchestrator:timeout")


def test_a_stream_of_events_goes_on() -> None:
    async def events(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await asyncio.sleep(0.05)  # five times what any other request gets
        await send({"type": "http.response.body", "body": b"data: 1\n\n"})

    asked = asyncio.run(ask(around(events, request_timeout_s=0.01)))
    assert [message["type"] for message in asked.sent][-1] == "http.response.body"


def test_one_request_too_many_is_told_to_come_again() -> None:
    async def both() -> tuple[Asked, Asked]:
        let_go = asyncio.Event()

        async def held(_scope: Scope, _receive: Receive, send: Send) -> None:
            await let_go.wait()
            await send({"type": "http.response.start", "status": 204, "headers": []})

        limits = around(held, requests_max=1)
        first = asyncio.ensure_future(ask(limits))
        await asyncio.sleep(0)
        second = await ask(limits)
        let_go.set()
        return await first, second

    first, second = asyncio.run(both())
    assert first.status == 204
    assert (second.status, second.problem["type"]) == (503, "urn:orchestrator:busy")


def test_a_mistake_of_ours_is_a_problem_and_no_traceback() -> None:
    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("secret of the server")

    asked = asyncio.run(ask(around(broken)))
    assert asked.status == 500
    assert "secret" not in json.dumps(asked.problem)
