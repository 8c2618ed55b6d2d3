"""The command line as its users run it: a process for each verb, in a directory of the test's own.

Loading the code takes a second and the verbs themselves a fraction of that. So one process loads
everything, and forks into a verb for each call (`warm.py`); what depends on loading is tested by
processes that start cold.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.conftest import Server

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a finished process left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return standard output as the one JSON document it must be."""
        return json.loads(self.out)


class Shell:
    """Runs verbs in one directory against one database, None for no database."""

    def __init__(self, dsn: str | None, directory: Path) -> None:
        self.dsn = dsn
        self.directory = directory
        strange = ("DATABASE_URL", "COLUMNS", "PYTHONPATH")
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ORCHESTRATOR_", "PG")) and name not in strange
        }
        self.environment |= {"PYTHONPATH": str(ROOT), "HOME": str(directory)}
        if dsn is not None:
            self.environment["DATABASE_URL"] = dsn

    def __call__(
        self, *arguments: str, code: int = 0, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> Ran:
        """Run a verb to its end and return what it left; it must end with `code`."""
        with tempfile.TemporaryDirectory() as files:
            streams = [Path(files, name) for name in ("in", "out", "err")]
            streams[0].write_text(stdin)
            request = {
                "arguments": arguments,
                "directory": str(self.directory),
                "environment": {**self.environment, **(env or {})},
                "streams": [str(path) for path in streams],
            }
            left = _warm().run(request)
            ran = Ran(left, streams[1].read_text(), streams[2].read_text())
        return _checked(ran, arguments, code)

    def cold(self, *arguments: str, code: int = 0, env: Mapping[str, str] | None = None) -> Ran:
        """Run a verb as a shell would, from the start of Python on."""
        done = subprocess.run(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env={**self.environment, **(env or {})},
            timeout=TIMEOUT_S,
            check=False,
        )
        return _checked(Ran(done.returncode, done.stdout, done.stderr), arguments, code)

    def on_terminal(self, *arguments: str, typed: str = "") -> Ran:
        """Run a verb whose standard input and error are a terminal; `err` is what that shows."""
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            with os.fdopen(theirs, "rb", buffering=0) as end:
                process = subprocess.Popen(
                    self.command(*arguments),
                    stdin=end,
                    stdout=subprocess.PIPE,
                    stderr=end,
                    cwd=self.directory,
                    env=self.environment | {"TERM": "xterm"},
                )
            os.write(ours, typed.encode())
            shown = b""
            with contextlib.suppress(OSError):  # how a terminal says that the other end is closed
                while more := terminal.read(65536):
                    shown += more
            out, _ = process.communicate(timeout=TIMEOUT_S)
        return Ran(process.returncode, out.decode(), shown.decode())

    def refused(self, *arguments: str, code: int, **kwargs: Any) -> str:
        """Run a verb that must end with `code`, and return the one line that says why."""
        return why(self(*arguments, code=code, **kwargs))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a verb that stays; the caller ends it."""
        return subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            env=self.environment,
        )

    def file(self, name: str, text: str) -> str:
        """Write a file into the directory and return its name."""
        (self.directory / name).write_text(text)
        return name

    @staticmethod
    def command(*arguments: str) -> list[str]:
        """Return what a process is started with."""
        return [sys.executable, "-m", "orchestrator", *arguments]


def why(ran: Ran) -> str:
    """Return the one line by which a process said why it failed."""
    lines = ran.err.splitlines()
    assert ran.out == ""
    assert len(lines) == 1, lines
    assert lines[0].startswith("orchestrator: ")
    return lines[0]


def _checked(ran: Ran, arguments: tuple[str, ...], code: int) -> Ran:
    assert ran.code == code, f"{arguments}: {ran}"
    assert "Traceback" not in ran.err
    return ran


class _Warm:
    """The process that has loaded everything."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("warm.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        atexit.register(self.close)

    def run(self, request: Mapping[str, object]) -> int:
        """Fork into a verb, wait for its end, and return its code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@cache
def _warm() -> _Warm:
    return _Warm()


@contextmanager
def database(server: Server, template: str | None) -> Iterator[str]:
    """Yield the DSN of a database of its own, a copy of `template` if one is named."""
    name = f"cli_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        create = sql.SQL("create database {}").format(sql.Identifier(name))
        if template is not None:
            create += sql.SQL(" template {}").format(sql.Identifier(template))
        connection.execute(create)
    try:
        yield server.database(name)
    finally:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            drop = sql.SQL("drop database {} with (force)")
            connection.execute(drop.format(sql.Identifier(name)))
