"""The metrics of a child process on its parent's listener."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.telemetry import relay
from orchestrator.telemetry.health import Health
from orchestrator.telemetry.listener import Listener
from tests.support.waiting import PATIENCE_S, until

ROOT = Path(__file__).parents[2]
CHILD = """
import socket, sys
from orchestrator.telemetry import metrics, relay
metrics.HTTP_REQUESTS.labels("GET", "/of/the/child", "200").inc(3)
metrics.TICK_DURATION.observe(0.2, "of the child")
relay.serve(socket.socket(fileno=int(sys.argv[1]))).join()
"""
SEEN = 'orchestrator_http_requests_total{method="GET",route="/of/the/child",status="200"} 3.0'


@contextmanager
def child(end: relay.Relay) -> Iterator[subprocess.Popen[bytes]]:
    theirs = end.renew()
    descriptor = theirs.fileno()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(descriptor)],
        pass_fds=[descriptor],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        theirs.close()
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def parent() -> Iterator[relay.Relay]:
    end = relay.Relay()
    yield end
    end.close()


def scrape(parent: relay.Relay) -> str:
    status, _, body = Listener("127.0.0.1", 0, Health(), parent.collect).answer("/metrics")
    assert status == 200
    return body.decode()


def test_what_a_child_counts_is_shown_by_its_parent(parent: relay.Relay) -> None:
    assert SEEN not in scrape(parent)
    with child(parent) as process:
        until(lambda: SEEN in scrape(parent), "the child answers")
        text = scrape(parent)
        assert text.count("# TYPE orchestrator_http_requests_total counter") == 1
        assert 'orchestrator_tick_duration_seconds_count{queue="of the child"} 1.0' in text
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)  # it answers until it has stopped
        began = time.monotonic()
        assert SEEN not in scrape(parent)
        # Not for as long as the child says nothing; a slow machine takes its time.
        assert time.monotonic() - began < 40 * relay.BUDGET_S
        process.send_signal(signal.SIGCONT)
        # The late answers to the questions before are passed over.
        until(lambda: SEEN in scrape(parent), "the child answers again")
    assert SEEN not in scrape(parent)
    with child(parent):
        until(lambda: SEEN in scrape(parent), "the next child answers")


def test_half_an_answer_is_finished_the_next_time() -> None:
    parent = relay.Relay(budget_s=0.05)
    theirs = parent.renew()
    try:
        assert list(parent.collect()) == []
        number = theirs.recv(4)
        body = b"# TYPE a_total counter\na_total 1.0\n"
        answer = number + len(body).to_bytes(4, "big") + body
        theirs.sendall(answer[:15])
        assert list(parent.collect()) == []
        following = theirs.recv(4)
        theirs.sendall(answer[15:] + following + answer[4:])
        assert list(parent.collect()) == []  # of the question before
        theirs.sendall(theirs.recv(4) + answer[4:])
        parent._budget_s = PATIENCE_S
        found: list[str] = []
        asking = threading.Thread(target=lambda: found.extend(f.name for f in parent.collect()))
        asking.start()
        theirs.sendall(theirs.recv(4) + answer[4:])
        asking.join()
        assert found == ["a"]
    finally:
        theirs.close()
        parent.close()


def test_a_child_that_talks_nonsense_is_asked_no_more() -> None:
    parent = relay.Relay()
    with parent.renew() as theirs:
        theirs.sendall(b"\xff" * 64)
        assert list(parent.collect()) == []
    assert parent._mine is None
    assert list(parent.collect()) == []
