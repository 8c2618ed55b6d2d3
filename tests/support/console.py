"""The command line inside the test's own process: for tables of many calls."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from orchestrator import cli


class Said(NamedTuple):
    """What a verb left."""

    code: int
    out: str
    err: str


@contextmanager
def workplace(directory: Path) -> Iterator[None]:
    """Work in `directory`, without the settings of whoever runs the tests."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("ORCHESTRATOR_", "PG")) or name == "DATABASE_URL":
            del os.environ[name]
    try:
        with contextlib.chdir(directory):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def say(dsn: str, *arguments: str) -> Said:
    """Run one verb on a database, as `orchestrator.cli.main` would."""
    out, err = io.StringIO(), io.StringIO()
    os.environ["DATABASE_URL"] = dsn
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.invoke(arguments)
    return Said(code, out.getvalue(), err.getvalue())
