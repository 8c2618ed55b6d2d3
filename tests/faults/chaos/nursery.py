"""Processes of the product that begin warm: forked from one that has imported everything.

A process from scratch takes half a second of processor time to start, longer than most of a run.
Forked, it runs the very command line, `orchestrator run` or `orchestrator worker`, in milliseconds.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 60.0


class Nursery:
    """Starts processes and hears of their ends; all of them die with it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.chaos.nursery", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._socket = ours
        self._unread = b""
        self._born: list[int] = []
        self.exits: dict[int, int] = {}

    def start(self, arguments: Sequence[str], *, env: Mapping[str, str], log: Path) -> int:
        """Start a process; return its id."""
        request = {"arguments": list(arguments), "env": dict(env), "log": str(log)}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + _PATIENCE_S
        while not self._born:
            self._hear(1.0)
            assert time.monotonic() < deadline, "the nursery does not answer"
        return self._born.pop()

    def look(self) -> dict[int, int]:
        """Return the exit codes of all that have ended (negative: the signal)."""
        self._hear(0.0)
        return self.exits

    def close(self) -> None:
        """End everything."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _hear(self, patience_s: float) -> None:
        while select.select([self._socket], [], [], patience_s)[0]:
            data = self._socket.recv(65536)
            assert data, "the nursery is gone"
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "born" in said:
                    self._born.append(said["born"])
                else:
                    self.exits[said["pid"]] = said["code"]
            patience_s = 0.0


def _serve(door: socket.socket) -> None:
    """Fork for each request, and tell of each end."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    unread = b""
    while True:
        ready = select.select([door.fileno(), read], [], [])[0]
        if read in ready:
            os.read(read, 4096)
            _bury(door)
        if door.fileno() not in ready:
            continue
        data = door.recv(65536)
        if not data:
            os._exit(0)
        *lines, unread = (unread + data).split(b"\n")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                for descriptor in (door.fileno(), read, write):
                    os.close(descriptor)
                _become(json.loads(line))
            door.sendall(json.dumps({"born": pid}).encode() + b"\n")


def _bury(door: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        code = os.waitstatus_to_exitcode(status)
        door.sendall(json.dumps({"pid": pid, "code": code}).encode() + b"\n")


def _become(request: Mapping[str, Any]) -> None:
    """Be the process that was asked for; never return."""
    code: object = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for name in [name for name in os.environ if name.startswith(("ORCHESTRATOR_", "PG"))]:
            del os.environ[name]
        os.environ.update(request["env"])
        arguments = request["arguments"]
        if arguments[0] == "producer":
            from tests.faults.chaos import producer

            producer.main(*arguments[1:])
            code = 0
        else:
            from orchestrator.cli import main

            sys.argv = ["orchestrator", *arguments]
            main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - into the log of the process, as its end
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


# What any of the processes imports, some of it only when it runs.
_MODULES = (
    "alembic.config",
    "alembic.runtime.migration",
    "alembic.script",
    "apscheduler.triggers.interval",
    "concurrent.futures.thread",
    "orchestrator.cli",
    "orchestrator.embedded",
    "orchestrator.leader.replica",
    "orchestrator.log",
    "orchestrator.store.migrate",
    "orchestrator.store.status",
    "orchestrator.worker.worker",
    "sqlalchemy.dialects.postgresql.psycopg",
    "tests.faults.chaos.handlers",
    "tests.faults.chaos.producer",
    "typer.rich_utils",
)


def _warm() -> None:
    """Import everything, and let no collection touch what is shared with the children."""
    for module in _MODULES:
        importlib.import_module(module)
    gc.freeze()


if __name__ == "__main__":
    _warm()
    _serve(socket.socket(fileno=int(sys.argv[1])))
