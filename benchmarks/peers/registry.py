"""Which peers there are, and who of them can run here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers.peer import REPOSITORY, Peer

_INSTALLED = REPOSITORY / ".cache" / "peers"


class Absent(NamedTuple):
    """A peer that cannot run, and why."""

    name: str
    reason: str


def _python(name: str, module: str, environment: str, **more: Any) -> Peer:
    interpreter = _INSTALLED / environment / "bin" / "python"
    driver = Path(__file__).parent / "drivers" / f"{module}.py"
    command = (str(interpreter), "-m", f"benchmarks.peers.drivers.{module}")
    return Peer(name, command, needs=(driver,), **more)


def _node(name: str, module: str, **more: Any) -> Peer:
    driver = Path(__file__).parent / "node" / f"{module}.mjs"
    modules = _INSTALLED / "node" / "node_modules"
    # Not the one of the system, which may be older than what these peers support.
    node = modules / ".bin" / "node"
    return Peer(name, (str(node), str(driver)), needs=(node, modules / name, driver), **more)


def _own(name: str, module: str, **more: Any) -> Peer:
    return Peer(name, (sys.executable, "-m", f"benchmarks.peers.drivers.{module}"), **more)


OURS = _own("ours", "ours", leads=True)
RAW = _own("raw", "raw", note="written by hand, at least once, no fairness: the floor")
STAGED = _own(
    "staged",
    "staged",
    leads=True,
    note="written by hand, raw behind a staging table with records and a log, no fairness",
)
SEED_SHAPE = _own(
    "seed-shape",
    "seed_shape",
    note="written by hand, an index over all rows, visibility as a filter",
)
GRAPHILE = _node("graphile-worker", "graphile_worker")
PG_BOSS = _node("pg-boss", "pg_boss", fair="groups")
PGQUEUER = _python("pgqueuer", "pgqueuer_driver", "python")
PROCRASTINATE = _python("procrastinate", "procrastinate_driver", "python")
OBAN = _python("oban", "oban_driver", "oban")
DBOS = _python(
    "dbos",
    "dbos_driver",
    "python",
    fair="partitioned queue",
    note="no bulk path: many calls in one transaction of the caller",
)
EVERY = (OURS, RAW, STAGED, SEED_SHAPE, GRAPHILE, PG_BOSS, PGQUEUER, PROCRASTINATE, OBAN, DBOS)
# Queues that others publish, which is what "the best peer" means.
PUBLISHED = (GRAPHILE, PG_BOSS, PGQUEUER, PROCRASTINATE, OBAN, DBOS)


def peers() -> tuple[Peer, ...]:
    """Return who can run here, ourselves first."""
    return tuple(peer for peer in EVERY if not peer.missing)


def absent() -> tuple[Absent, ...]:
    """Return who cannot run here, and why."""
    return tuple(Absent(peer.name, peer.missing) for peer in EVERY if peer.missing)
