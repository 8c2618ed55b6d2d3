"""An upgrade that rolls: the code of another version beside this one, on the schema of this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psycopg
import pytest

from orchestrator import Client
from orchestrator.store import migrate
from tests.support.waiting import until as until_then

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
# The last commit before processes of several roles shared a database.
OLD = "e7f230319d749cef04654433dfcef038e3e6ea6a"
# What an old process may not say of a new schema: no such column, no such table, a cached plan that
# no longer fits, a schema that does not.
_SURFACED = ("42703", "42P01", "0A000", "does not exist", "cached plan", "schema does not fit")
# How long a queue may stand still while a migration takes its locks and a leader hands over: less
# than two seconds on a machine of its own, and no machine of a test is that.
_STALL_MAX_S = 10.0

_APP = """
import time
from orchestrator import App

app = App()

@app.task("note")
def note(task):
    time.sleep(0.005)
"""

_PRODUCER = """
import signal, time
from orchestrator import Client

going = True

def stop(*_):
    global going
    going = False

signal.signal(signal.SIGTERM, stop)
ids = []
with Client() as client:
    while going:
        ids.append(client.enqueue("note", org="globex").id)
        time.sleep(0.005)
print(*ids)
"""


class Version:
    """The processes of one version of the code, against one database."""

    def __init__(self, code: Path, dsn: str, folder: Path) -> None:
        self._code = code
        self._folder = folder
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ORCHESTRATOR_", "PG"))
        } | {"DATABASE_URL": dsn, "PYTHONPATH": f"{code}:{folder}"}
        self.logs: list[Path] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = self._folder / f"{self._code.name}-{len(self.logs)}.log"
        self.logs.append(log)
        with log.open("wb") as stream:
            return subprocess.Popen(
                self._command(*arguments), env=self._environment, cwd=self._code, stderr=stream
            )

    def produce(self, processes: ExitStack) -> subprocess.Popen[str]:
        """Start a producer that tells the ids of what it has enqueued once it is told to end."""
        log = self._folder / f"{self._code.name}-producer.log"
        self.logs.append(log)
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", _PRODUCER],
                env=self._environment,
                cwd=self._code,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )
        processes.callback(process.wait)
        processes.callback(process.kill)
        return process

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            self._command(*arguments),
            env=self._environment,
            cwd=self._code,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "orchestrator", *arguments]

    def surfaced(self) -> list[str]:
        lines = [line for log in self.logs for line in log.read_text().splitlines()]
        return [line for line in lines if any(word in line for word in _SURFACED)]


def holder(dsn: str) -> str:
    """Return who was elected last."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select holder from orchestrator.orchestrator_lock where queue = 1"
        ).fetchone()
    return row[0] if row else ""


def place(dsn: str, task: int) -> str:
    with Client(dsn) as client:
        return client.get(task).place


@pytest.fixture
def old_code(tmp_path: Path) -> Path:
    code = tmp_path / "old"
    code.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", OLD], capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"needs the history of the repository: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(code)], input=archive.stdout, check=True)
    return code


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# Six processes start in the course of the test, on a machine that may have other work.
until = partial(until_then, patience_s=60)


def ended(dsn: str) -> tuple[int, float]:
    """Return how many tasks have succeeded, and the longest pause between two of them."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select count(*), coalesce(max(pause), 0) from ("
            " select date_part('epoch', ended_at - lag(ended_at) over (order by ended_at)) as pause"
            " from orchestrator.task_attempt where status = 'succeeded') of_all"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


@pytest.mark.timeout(180)
def test_processes_of_the_version_before_run_through_an_upgrade_and_beside_it(
    empty_dsn: str, tmp_path: Path, old_code: Path, processes: ExitStack
) -> None:
    (tmp_path / "rolling.py").write_text(_APP)
    old, new = Version(old_code, empty_dsn, tmp_path), Version(ROOT, empty_dsn, tmp_path)

    def started(version: Version, *arguments: str) -> subprocess.Popen[bytes]:
        process = version.start(*arguments)
        processes.callback(process.wait)
        processes.callback(process.kill)
        return process

    old.run("migrate")
    old_replica = started(old, "run")
    old_worker = started(old, "worker", "rolling:app", "--concurrency", "4")
    # Of the version before, from before the upgrade until after it.
    producer = old.produce(processes)
    until(lambda: ended(empty_dsn)[0] > 50, "the version before works")
    leader = holder(empty_dsn)

    # The schema moves on under a load that neither stands still nor hears of it.
    assert migrate.upgrade(empty_dsn) is True
    moved = ended(empty_dsn)[0]
    until(lambda: ended(empty_dsn)[0] > moved + 50, "the version before works on")
    assert (old_replica.poll(), old_worker.poll()) == (None, None)

    # The new version stands by and works beside the old one, then takes over from it.
    started(new, "run")
    started(new, "worker", "rolling:app", "--concurrency", "4")
    mine = json.loads(new.run("enqueue", "note", "--org", "acme", "--json"))["id"]
    old_worker.send_signal(signal.SIGTERM)
    assert old_worker.wait(60) == 0
    until(lambda: place(empty_dsn, mine) == "ended", "new workers, an old leader")
    old_replica.send_signal(signal.SIGTERM)
    assert old_replica.wait(60) == 0
    until(lambda: holder(empty_dsn) not in ("", leader), "a leader of the new version")
    moved = ended(empty_dsn)[0]
    until(lambda: ended(empty_dsn)[0] > moved + 50, "old producers, a new leader")
    producer.send_signal(signal.SIGTERM)
    told, _ = producer.communicate(timeout=30)
    sent = [mine, *map(int, told.split())]

    until(lambda: ended(empty_dsn)[0] >= len(sent), "every task has succeeded")
    count, stall_s = ended(empty_dsn)
    assert count == len(sent) == len(set(sent))
    assert stall_s < _STALL_MAX_S
    assert old.surfaced() == []
    assert new.surfaced() == []
