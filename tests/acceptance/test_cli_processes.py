"""`run` and `worker` as processes: what they do, what they say, and how they end."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orchestrator.store.migrate import head
from orchestrator.store.names import LOCK_CLASS
from tests.acceptance.cli import Shell, database
from tests.conftest import Server
from tests.support.waiting import until

WORKSHOP = "tests.acceptance.workshop:app"


class Staying:
    """A verb that stays, with what it says on stderr as it says it."""

    def __init__(self, shell: Shell, *arguments: str) -> None:
        self.process = shell.start(*arguments)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())

    def said(self, word: str) -> bool:
        """Tell whether `word` was said, or the process is gone and never will."""
        assert self.process.poll() is None, self.lines
        return any(word in line for line in self.lines)

    def signalled(self, number: int) -> int:
        """Send a signal, and return the exit code once the process has ended."""
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def close(self) -> None:
        """End it at once if it has not ended."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def staying(shell: Shell, *arguments: str) -> Iterator[Staying]:
    made = Staying(shell, *arguments)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def shell(dsn: str, tmp_path: Path) -> Shell:
    return Shell(dsn, tmp_path)


def leader(shell: Shell) -> dict[str, Any]:
    (only,) = shell("leader", "--json").json["leaders"]
    found: dict[str, Any] = only
    return found


def lock_is_free(shell: Shell) -> bool:
    assert shell.dsn is not None
    with psycopg.connect(shell.dsn) as connection:
        row = connection.execute(b"select pg_try_advisory_lock(%s, 1)", [LOCK_CLASS]).fetchone()
    return row == (True,)


def test_a_replica_and_a_worker_carry_a_task_from_enqueue_to_its_end(
    shell: Shell, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    with (
        staying(shell, "run") as replica,
        staying(shell, "worker", WORKSHOP, "--concurrency", "2") as worker,
    ):
        payload = json.dumps({"file": str(note), "text": "done"})
        task = shell("enqueue", "note", "--org", "acme", "--payload", payload, "--json").json["id"]

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = shell("task", "show", str(task), "--json").json["task"]
            return found if found["place"] == "ended" else None

        told = until(ended, "the task ended")
        assert told is not None
        assert note.read_text() == "done"
        assert told["status"] == "succeeded"
        assert [(a["attempt"], a["status"], a["final"]) for a in told["history"]] == [
            (1, "succeeded", True)
        ]

        (status,) = shell("status", "--json").json["queues"]
        assert status["leader"]["alive"] is True
        assert status["last_tick"]["admitted"] == 1
        assert status["flow"]["attempts"]["succeeded"] == 1

        assert worker.signalled(signal.SIGTERM) == 0
        assert replica.signalled(signal.SIGTERM) == 0
    assert lock_is_free(shell)
    assert leader(shell)["alive"] is False
    events = [json.loads(line)["event"] for line in replica.lines if line.startswith("{")]
    assert events[0] == "leader.elected"
    assert "leader.resigned" in events


def test_a_leader_that_is_told_to_resign_is_followed_by_a_new_term(shell: Shell) -> None:
    with staying(shell, "run", "--queue", "default") as replica:
        until(lambda: leader(shell)["alive"], "a leader")
        told = shell("leader", "--resign", "--json").json
        assert (told["queue"], told["epoch"]) == ("default", 1)
        until(lambda: leader(shell)["alive"] and leader(shell)["epoch"] == 2, "a new term")
        assert replica.signalled(signal.SIGINT) == 0


def test_a_running_task_is_asked_to_stop_and_a_second_signal_ends_the_worker_at_once(
    shell: Shell, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    with staying(shell, "run") as replica, staying(shell, "worker", WORKSHOP) as worker:
        payload = json.dumps({"file": str(begun)})
        task = shell("enqueue", "hang", "--org", "acme", "--payload", payload, "--json").json["id"]
        until(begun.exists, "the handler began")
        assert "1 running asked to stop" in shell("task", "cancel", str(task)).out

        worker.process.send_signal(signal.SIGTERM)
        until(lambda: worker.said("worker.stopping"), "it heard the first signal")
        assert worker.signalled(signal.SIGTERM) == 128 + signal.SIGTERM
        assert replica.signalled(signal.SIGTERM) == 0


def test_a_replica_may_migrate_before_it_stands(server: Server, tmp_path: Path) -> None:
    with database(server, None) as dsn:
        shell = Shell(dsn, tmp_path)
        with staying(shell, "run", "--migrate") as replica:
            until(lambda: replica.said("leader.elected"), "it leads")
            assert replica.signalled(signal.SIGTERM) == 0
            assert replica.process.stdout is not None
            assert replica.process.stdout.read() == f"the schema is now at {head()}\n"


def test_a_queue_that_does_not_exist_is_said_at_once(shell: Shell) -> None:
    for verb in (("run",), ("worker", WORKSHOP)):
        line = shell.refused(*verb, "--queue", "nope", code=1)
        assert "no queue 'nope'" in line
        assert "orchestrator queue set nope" in line


def test_a_module_is_found_in_the_working_directory(shell: Shell) -> None:
    shell.file("shop.py", "from orchestrator.worker import App\napp = App()\n")
    # It has no handlers: found, and only then refused.
    line = shell.refused("worker", "shop:app", code=2)
    assert "handler" in line


def test_logs_hide_passwords_and_escape_names() -> None:
    """Through the processors of both formats, in a process: structlog is configured once in it."""
    code = (
        "import structlog, logging\n"
        "from orchestrator.config import LogSettings\n"
        "from orchestrator.log import configure\n"
        "for format in ('console', 'json'):\n"
        "    configure(LogSettings(format=format))\n"
        "    structlog.get_logger().info('it.happened', org='\\x1b[31mred', dsn='see postgresql://me:s3cret@db/app')\n"
        "    logging.getLogger('library').warning('pair password=s3cret')\n"
        "    structlog.get_logger().debug('unseen')\n"
        "    try: raise ValueError('postgresql://me:s3cret@db/app')\n"
        "    except ValueError: structlog.get_logger().exception('it.failed')\n"
    )
    shell = Shell(None, Path.cwd())
    done = subprocess.run(
        [*shell.command()[:1], "-c", code],
        capture_output=True,
        text=True,
        env=shell.environment,
        check=True,
    )
    assert done.stdout == ""
    assert "s3cret" not in done.stderr
    assert done.stderr.count("me:***@db/app") == 4
    assert "\x1b" not in done.stderr
    assert "unseen" not in done.stderr
    assert "Traceback" in done.stderr
    event = next(json.loads(line) for line in done.stderr.splitlines() if line.startswith("{"))
    assert (event["event"], event["org"], event["level"]) == ("it.happened", "\x1b[31mred", "info")
