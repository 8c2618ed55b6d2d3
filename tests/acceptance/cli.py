"""The command line as its users run it: a process of its own, in an empty directory."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
        done = subprocess.run(
            self.command(*arguments),
            input=stdin.encode(),
            capture_output=True,
            cwd=self.directory,
            env=self.environment | (env or {}),
            timeout=TIMEOUT_S,
            check=False,
        )
        ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert ran.code == code, f"{arguments}: {ran}"
        assert "Traceback" not in ran.err
        return ran

    def refused(self, *arguments: str, code: int, **kwargs: Any) -> str:
        """Run a verb that must end with `code`, and return the one line that says why."""
        ran = self(*arguments, code=code, **kwargs)
        lines = ran.err.splitlines()
        assert ran.out == ""
        assert len(lines) == 1
        assert lines[0].startswith("orchestrator: ")
        return lines[0]

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
        """Return what the process is started with."""
        return [sys.executable, "-m", "orchestrator", *arguments]


@contextmanager
def database(server: Server, template: str | None) -> Iterator[str]:
    """Yield the DSN of a database of its own, a copy of `template` if one is named."""
    name = sql.Identifier(f"cli_{os.getpid()}_{next(_numbers)}")
    copied = sql.SQL(" template {} strategy file_copy").format(sql.Identifier(template or ""))
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        create = sql.SQL("create database {}").format(name)
        connection.execute(create + copied if template else create)
    try:
        yield server.database(name.as_string().strip('"'))
    finally:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(name))
