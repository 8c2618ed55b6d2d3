"""What a benchmark runs on: versions, settings of the server, the machine and its disk."""

from __future__ import annotations

import os
import platform
import re
import statistics
import tempfile
import time
from importlib import metadata
from pathlib import Path

import psycopg

from benchmarks.peers.peer import Peer, PeerFailed, version
from benchmarks.peers.registry import OURS, peers
from benchmarks.speed.record import Surroundings
from benchmarks.speed.result import Result
from benchmarks.stage import SETTINGS
from orchestrator.embedded import throwaway

_SHOWN = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
    "max_connections",
    "autovacuum",
)
_WRITES = 200
# What PostgreSQL writes at a small commit.
_PAGE = b"\0" * 8192


def look_around() -> Surroundings:
    """Start a server as the benchmarks do, look at it and at the disk that it is on."""
    load = os.getloadavg()[0]  # before anything of ours runs
    with throwaway(settings=SETTINGS) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        server = {name: _shown(connection, name) for name in _SHOWN}
        versions = {
            "PostgreSQL": _shown(connection, "server_version"),
            "Python": platform.python_version(),
            "psycopg": psycopg.__version__,
            "libpq": _libpq(),
            "orchestrator": metadata.version("orchestrator"),
        }
        folder = Path(_shown(connection, "data_directory")).parent
        machine = {
            "cores": float(_cores()),
            "memory_gb": round(_memory_bytes() / 2**30, 1),
            "fdatasync_ms": round(_fdatasync_s(folder) * 1_000, 3),
            "load_before": round(load, 2),
        }
    return Surroundings(versions, server, machine)


def peer_versions(result: Result) -> dict[str, str]:
    """Return the versions of the peers that took part, by name.

    They are asked afterwards: a driver that starts is work for the machine.
    """
    systems = {word for key in result.measures for word in re.findall(r"[\w-]+", key.system)}
    return {peer.name: _version(peer) for peer in peers() if peer.name in systems - {OURS.name}}


def _version(peer: Peer) -> str:
    try:
        return version(peer).removeprefix(peer.name).strip()
    except PeerFailed as error:
        return f"unknown ({error})"


def _shown(connection: psycopg.Connection, name: str) -> str:
    row = connection.execute("select current_setting(%s)", [name]).fetchone()
    assert row is not None
    return str(row[0])


def _libpq() -> str:
    number = psycopg.pq.version()
    return f"{number // 10_000}.{number % 10_000}"


def _cores() -> int:
    """Return the cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _fdatasync_s(folder: Path) -> float:
    """Return the median time to make one page of a file in `folder` durable."""
    # Where the system has no fdatasync, its fsync is what PostgreSQL would take.
    sync = getattr(os, "fdatasync", os.fsync)
    took = []
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(_PAGE * _WRITES)
        file.flush()
        os.fsync(file.fileno())
        for number in range(_WRITES):
            os.pwrite(file.fileno(), _PAGE, number * len(_PAGE))
            began = time.perf_counter()
            sync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took)
