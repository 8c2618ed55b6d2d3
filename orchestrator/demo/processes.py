"""The processes of a demonstration: replicas and workers, each the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Long enough for a worker to drain; then it is killed.
_GRACE_S = 5.0
REPLICA = ("run",)
WORKER = ("worker", "orchestrator.demo.handlers:app")


class Processes:
    """Child processes that share one database."""

    def __init__(self, dsn: str, logs: Path) -> None:
        self._dsn = dsn
        self._logs = logs
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, *args: str) -> int:
        """Start `orchestrator ARGS…`; return its process id."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("ORCHESTRATOR_")
        }
        log = self._logs / f"{args[0]}-{len(self._children)}.log"
        with log.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.demo.child", *args],
                env=environment | {"DATABASE_URL": self._dsn},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is the parent's to handle: it lets the children drain.
                start_new_session=True,
            )
        self._children.append(child)
        return child.pid

    def kill(self, pid: int) -> None:
        """Kill one of the children with SIGKILL and reap it."""
        for child in self._children:
            if child.pid == pid:
                child.kill()
                child.wait()

    def failed(self) -> Sequence[str]:
        """Return the last log line of each child that ended by itself with an error."""
        return [
            self._last_line(number, child)
            for number, child in enumerate(self._children)
            if child.poll() not in (None, 0, -9)
        ]

    def stop(self) -> None:
        """Ask all children to stop, and kill those that do not."""
        for child in self._children:
            if child.poll() is None:
                child.terminate()
        for child in self._children:
            try:
                child.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            if child.stdin is not None:
                child.stdin.close()

    def _last_line(self, number: int, child: subprocess.Popen[bytes]) -> str:
        (log,) = self._logs.glob(f"*-{number}.log")
        lines = log.read_text(errors="replace").strip().splitlines()
        return f"exit {child.returncode}: {lines[-1] if lines else 'no output'}"


@contextmanager
def started(dsn: str, logs: Path) -> Iterator[Processes]:
    """Yield `Processes`; all of them are ended at the end."""
    processes = Processes(dsn, logs)
    try:
        yield processes
    finally:
        processes.stop()
