"""Replicas in processes of their own that start in milliseconds, so that one is always standing by.

They are forked from a process that has imported everything already; a process from scratch takes
longer to start than the terms of this benchmark last.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

_GRACE_S = 10.0


def _replica(dsn: str) -> None:
    """Stand for election until SIGTERM, or until the parent is gone, however that happened."""
    import structlog

    from orchestrator.config import Settings
    from orchestrator.leader.replica import Replica

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    replica = Replica(dsn, Settings())
    signal.signal(signal.SIGTERM, lambda *_: replica.stop())
    replica.run()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(0)


class Replicas:
    """So many replicas on one database."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._context: Any = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, "orchestrator.leader.replica"])
        self._standing: dict[int, BaseProcess] = {}

    def start(self) -> None:
        """Start one more."""
        process = self._context.Process(target=_replica, args=(self._dsn,), daemon=True)
        process.start()
        self._standing[process.pid] = process

    def replace(self, pid: int) -> None:
        """End one with SIGKILL, and start another one."""
        process = self._standing.pop(pid)
        process.kill()
        process.join()
        process.close()
        self.start()

    def stop(self) -> None:
        """End all of them; those that do not listen are killed."""
        for process in self._standing.values():
            process.terminate()
        for process in self._standing.values():
            process.join(_GRACE_S)
            if process.exitcode is None:
                process.kill()
                process.join()
            process.close()
        self._standing.clear()


@contextmanager
def replicas(dsn: str, count: int) -> Iterator[Replicas]:
    """Yield `count` replicas; all of them are ended at the end."""
    standing = Replicas(dsn)
    try:
        for _ in range(count):
            standing.start()
        yield standing
    finally:
        standing.stop()
