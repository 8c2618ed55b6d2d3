"""What bounds a request before it is served, seen from the wire."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from orchestrator.server.rates import Rates
from tests.integration.conftest import ask
from tests.support.http import Served, problem, serving

TASK = {"name": "resize", "org": "acme"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def tight(dsn: str) -> Iterator[Served]:
    with serving(
        dsn,
        body_bytes_max=2000,
        header_bytes_max=2048,
        header_timeout_s=0.3,
        body_timeout_s=0.3,
    ) as served:
        yield served


@contextmanager
def wire(served: Served) -> Iterator[socket.socket]:
    url = httpx.URL(served.url)
    with socket.create_connection((url.host, url.port or 0), timeout=10) as connected:
        yield connected


def everything(connected: socket.socket) -> bytes:
    """Return what comes until the server hangs up."""
    received = b""
    while part := connected.recv(65536):
        received += part
    return received


def test_a_body_that_is_too_large_is_refused_announced_or_not(tight: Served) -> None:
    client = tight.client("producer")
    large = json.dumps(TASK | {"payload": "x" * 3000}).encode()
    announced = client.post("/v1/tasks", content=large, headers=JSON)
    problem(announced, 413, "body-too-large")

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(large), 100):
            yield large[start : start + 100]

    problem(client.post("/v1/tasks", content=chunks(), headers=JSON), 413, "body-too-large")
    assert client.post("/v1/tasks", json=TASK | {"payload": "x" * 1000}).status_code == 201
    assert ask(tight.dsn, "select count(*) from orchestrator.task") == 1


def test_strangers_cannot_send_a_body(tight: Served) -> None:
    with wire(tight) as connected:
        head = "POST /v1/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: 1900\r\n\r\n"
        connected.sendall(head.encode())
        # Answered though not a byte of the body has come.
        assert b" 401 " in connected.recv(65536)


def test_headers_are_bounded_in_size(tight: Served) -> None:
    client = tight.client("producer")
    at_once = client.get("/v1/tasks/1", headers={"X-Long": "x" * 4000})
    problem(at_once, 431, "headers-too-large")
    with wire(tight) as connected:
        connected.sendall(b"GET /v1/tasks/1 HTTP/1.1\r\nHost: h\r\nX-Long: " + b"x" * 4000)
        assert b"headers-too-large" in everything(connected)


def test_headers_and_bodies_that_come_too_slowly_are_given_up(tight: Served) -> None:
    with wire(tight) as connected:
        connected.sendall(b"GET /v1/tasks/1 HTTP/1.1\r\nHost: h\r\n")
        assert b"header-timeout" in everything(connected)
    with wire(tight) as connected:
        assert b"header-timeout" in everything(connected)
    head = (
        "POST /v1/tasks HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {tight.token('producer')}\r\nContent-Length: 1000\r\n\r\n"
    )
    with wire(tight) as connected:
        connected.sendall(head.encode() + b'{"name": ')
        assert b"body-timeout" in everything(connected)


def test_a_connection_that_is_kept_is_not_taken_for_slow_headers(tight: Served) -> None:
    client = tight.client("producer")
    assert client.post("/v1/tasks", json=TASK).status_code == 201
    time.sleep(0.5)  # longer than headers may take: this is about what time alone must not do
    assert client.post("/v1/tasks", json=TASK).status_code == 201


def test_a_token_that_sends_too_much_is_told_when_to_come_again(dsn: str) -> None:
    with serving(dsn, rate_per_s=1) as served:
        one, other = served.client("reader"), served.client("reader")
        answers = [one.get("/v1/tiers") for _ in range(6)]
        limited = [answer for answer in answers if answer.status_code != 200]
        problem(limited[0], 429, "rate-limited")
        assert limited[0].headers["retry-after"] == "1"
        assert other.get("/v1/tiers").status_code == 200


def test_a_bucket_fills_at_its_rate() -> None:
    now = [0.0]
    rates = Rates(10, lambda: now[0])
    assert [rates.wait_s("a") for _ in range(20)] == [0.0] * 20
    assert rates.wait_s("a") == pytest.approx(0.1)
    assert rates.wait_s("b") == 0
    now[0] = 0.1
    assert rates.wait_s("a") == 0
    assert rates.wait_s("a") > 0
    now[0] = 1000.0
    assert [rates.wait_s("a") for _ in range(20)] == [0.0] * 20
    assert rates.wait_s("a") > 0
