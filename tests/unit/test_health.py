"""What makes a process live and ready, by a clock of the test's own."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from orchestrator.config import parse_address
from orchestrator.errors import DatabaseUnavailable
from orchestrator.telemetry.health import Health, Loop
from orchestrator.telemetry.listener import Listener
from tests.support.waiting import until


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


def test_a_loop_that_does_not_turn_is_no_life(health: Health, clock: Clock) -> None:
    loop = health.loop("election loop", limit_s=5.0)
    loop.works()
    clock.now += 5
    assert health.live() == []
    clock.now += 1
    assert health.live() == ["election loop has not turned for 6 s"]
    assert health.ready() == ["election loop has not turned for 6 s"]
    loop.turn()
    assert health.live() == health.ready() == []


def test_waiting_for_the_database_is_life_but_not_readiness(health: Health, clock: Clock) -> None:
    asking = True
    health.loop("fetcher", limit_s=5.0, awaits=lambda: asking).works()
    clock.now += 60
    assert health.live() == []
    assert health.ready() == ["fetcher has not turned for 60 s, waiting for the database"]
    asking = False
    assert health.live() == ["fetcher has not turned for 60 s"]


def test_a_loop_that_connects_is_excused_until_it_has(health: Health, clock: Clock) -> None:
    loop = health.loop("election loop", limit_s=5.0)
    with loop.connecting():
        clock.now += 60
        assert health.live() == []
    assert health.live() == []
    clock.now += 6
    assert health.live() == ["election loop has not turned for 6 s"]


def test_ready_is_what_the_loops_last_found(health: Health) -> None:
    assert health.ready() == ["starting"]
    one, other = health.loop("one"), health.loop("other")
    one.works()
    assert health.ready() == ["other: starting"]
    other.fails(DatabaseUnavailable("no route to postgresql://me:hush@db/x\nand more"))
    assert health.ready() == ["other: no route to postgresql://me:***@db/x"]
    assert health.live() == []
    other.works()
    assert health.ready() == []
    health.drain()
    assert health.ready() == ["draining"]
    assert health.live() == []


def test_a_loop_that_ended_is_asked_no_more(health: Health, clock: Clock) -> None:
    first = health.loop("leader of a")
    second = health.loop("leader of a")
    health.forget(first)  # of the term before
    clock.now += 60
    assert len(health.live()) == 1
    health.forget(second)
    assert health.live() == []


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:9187", "127.0.0.1", 9187), ("[::1]:0", "::1", 0), ("a-b.c:80", "a-b.c", 80)],
)
def test_an_address_names_host_and_port(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", "9187", ":9187", "a:", "a:70000", "::1:5", "u:p@h:1", "a:1 b"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give HOST:PORT"):
        parse_address(text)


@pytest.fixture
def listener(health: Health) -> Iterator[Listener]:
    listener = Listener("127.0.0.1", 0, health)
    listener.start()
    yield listener
    listener.stop()


def get(listener: Listener, path: str, method: str = "GET") -> tuple[int, str]:
    assert listener.port is not None
    connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_the_probes_say_why_in_a_line_each(
    listener: Listener, health: Health, clock: Clock
) -> None:
    loop: Loop = health.loop("fetcher", limit_s=5)
    assert get(listener, "/livez") == (200, "ok\n")
    assert get(listener, "/readyz?verbose") == (503, "fetcher: starting\n")
    loop.works()
    assert get(listener, "/readyz") == (200, "ok\n")
    clock.now += 6
    assert get(listener, "/livez") == (503, "fetcher has not turned for 6 s\n")
    assert get(listener, "/livez", "HEAD") == (503, "")
    assert get(listener, "/admin")[0] == 404
    assert get(listener, "/metrics", "POST")[0] == 501


def test_whoever_connects_and_says_nothing_keeps_nobody_out(listener: Listener) -> None:
    assert listener.port is not None
    silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(12)]
    try:
        assert get(listener, "/livez")[0] == 200
    finally:
        for each in silent:
            each.close()


def test_an_address_that_is_taken_is_had_once_it_is_free(health: Health) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listener = Listener("127.0.0.1", port, health, retry_s=0.01)
        listener.start()
        assert listener.port is None
    try:
        until(lambda: listener.port, "the listener has its address")
        assert get(listener, "/livez")[0] == 200
    finally:
        listener.stop()
    assert not [t for t in threading.enumerate() if t.name == "metrics" and t.is_alive()]
