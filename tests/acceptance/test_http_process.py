"""`orchestrator run --http`: the server process, how it is looked after, and how it ends."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.acceptance.cli import Shell
from tests.acceptance.test_cli_processes import Staying, staying
from tests.support.waiting import until

TASK = {"name": "resize", "payload": {"image": 7}, "org": "acme"}


@pytest.fixture
def shell(dsn: str, tmp_path: Path) -> Shell:
    return Shell(dsn, tmp_path)


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    if not listed.exists():
        pytest.skip("this kernel does not list the children of a process")
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def runs(pid: int) -> bool:
    """Tell whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def replica(shell: Shell) -> Iterator[tuple[Staying, httpx.Client]]:
    """Run a replica that serves; yield it, and a client with a token."""
    made = shell("token", "create", "shop", "--scope", "producer")
    with staying(shell, "run", "--http", "127.0.0.1:0") as process:
        until(lambda: process.said("HTTP API on"), "where it serves is said")
        found = re.search(r"http://[\d.:]+", "\n".join(process.lines))
        assert found
        headers = {"Authorization": f"Bearer {made.out.strip()}"}
        with httpx.Client(base_url=found[0], headers=headers, timeout=60) as client:
            yield process, client


def test_a_replica_serves_restarts_a_dead_server_and_ends_both(shell: Shell) -> None:
    with replica(shell) as (process, client):
        enqueued = client.post("/v1/tasks", json=TASK)
        assert enqueued.status_code == 201
        assert "orchestrator token create" in "\n".join(process.lines)
        # Someone to claim it is all that is missing: the leader beside the server admits it.
        until(
            lambda: client.get(enqueued.headers["location"]).json()["place"] == "ready",
            "the leader admits what HTTP enqueued",
        )
        (first,) = children(process.process.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: process.said("server.died"), "the death is noticed")
        # The parent holds the socket: whoever comes meanwhile waits and is served.
        with httpx.Client(base_url=client.base_url, headers=client.headers, timeout=60) as again:
            assert again.post("/v1/tasks", json=TASK).status_code == 201
        (second,) = children(process.process.pid)
        assert second != first
        assert process.signalled(signal.SIGTERM) == 0
        assert not runs(second)
        log = "\n".join(process.lines)
        assert client.headers["Authorization"].split()[1] not in log
        assert "image" not in log


def test_a_server_ends_with_a_replica_that_was_killed(shell: Shell) -> None:
    with replica(shell) as (process, client):
        assert client.post("/v1/tasks", json=TASK).status_code == 201
        (server,) = children(process.process.pid)
        process.signalled(signal.SIGKILL)
        until(lambda: not runs(server), "the server is gone")


def test_an_address_in_use_is_said_at_once(shell: Shell) -> None:
    with replica(shell) as (_, client):
        address = f"{client.base_url.host}:{client.base_url.port}"
        refused = shell("run", "--http", address, code=2)
        assert refused.err.startswith(f"orchestrator: cannot serve on {address}: ")
        assert len(refused.err.splitlines()) == 1


@pytest.mark.parametrize("address", ["8080", "localhost:http", ":8080", "127.0.0.1:99999"])
def test_what_is_no_address_is_refused(shell: Shell, address: str) -> None:
    refused = shell("run", "--http", address, code=2)
    assert "give HOST:PORT" in refused.err


def test_without_the_libraries_one_line_says_how_to_get_them(shell: Shell) -> None:
    (shell.directory / "fastapi.py").write_text("raise ModuleNotFoundError('no fastapi')")
    refused = shell.cold(
        *("run", "--http", "127.0.0.1:0"),
        code=2,
        env={"PYTHONPATH": f"{shell.directory}:{shell.environment['PYTHONPATH']}"},
    )
    assert refused.err.splitlines() == [
        "orchestrator: the HTTP API needs more libraries: pip install 'orchestrator[server]'"
    ]
