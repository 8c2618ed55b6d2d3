"""Objects that stay, made by the hundred thousand, without the collector of cycles in between.

A hundred thousand orgs are more than a million objects, and none of them is garbage. While they are
made, the collector walks each of them two or three times, in ninety collections: a quarter of the
time that it takes to load them. So it rests meanwhile; then they go to where it looks last, without
being walked for that.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class _Rest:
    """How many rest on it: a replica may load several queues at once, each in a thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._resting = 0
        self._was_enabled = False

    def begin(self) -> None:
        with self._lock:
            if not self._resting:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._resting += 1

    def end(self) -> None:
        with self._lock:
            self._resting -= 1
            if not self._resting and self._was_enabled:
                # Into the oldest generation, by way of the frozen one. Else the next object that
                # anybody makes would have all of them walked at once, in the middle of a tick.
                gc.freeze()
                gc.unfreeze()
                gc.enable()


_REST = _Rest()


@contextmanager
def uncollected() -> Iterator[None]:
    """Let the collector of cycles rest, in the whole process, while objects that stay are made.

    They belong to the oldest generation afterwards, as does what was frozen before: they are freed
    by their reference counts as ever, and cycles of them at the next full collection.
    """
    _REST.begin()
    try:
        yield
    finally:
        _REST.end()
