"""Ends the process when a leader's ticks stall: a hung system call can be ended no other way.

The server has already freed the lock by then (idle timeouts); this frees the replica's seat.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger()

# EX_SOFTWARE of sysexits.h: a supervisor restarts the replica.
EXIT_CODE = 70


class Watchdog:
    """Calls `end` (by default: ends the process) when a watched name is silent for `limit_s`."""

    def __init__(
        self, limit_s: float, end: Callable[[], None] = lambda: os._exit(EXIT_CODE)
    ) -> None:
        self._limit_s = limit_s
        self._end = end
        self._seen: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def alive(self, name: str) -> None:
        """Note that `name` made progress; the first call starts watching it."""
        with self._lock:
            self._seen[name] = time.monotonic()

    def forget(self, name: str) -> None:
        """Stop watching `name`: it ended in an orderly way."""
        with self._lock:
            self._seen.pop(name, None)

    def stop(self) -> None:
        """Stop watching altogether."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def silent_s(self) -> float:
        """Return how long the most silent watched name has been silent, 0 if none is watched."""
        with self._lock:
            return time.monotonic() - min(self._seen.values(), default=time.monotonic())

    def _watch(self) -> None:
        while not self._stopped.wait(self._limit_s / 4):
            if self.silent_s() > self._limit_s:
                log.critical("watchdog.stalled", limit_s=self._limit_s, silent_s=self.silent_s())
                self._end()
