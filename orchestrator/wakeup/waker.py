"""Wakes a thread that waits on sockets: from another thread, or from a signal handler."""

from __future__ import annotations

import contextlib
import selectors
import socket
from types import TracebackType
from typing import Self


class Waker:
    """A pair of sockets: `wake` writes to one, `wait` sleeps on the other and on what was added."""

    def __init__(self) -> None:
        self._mine, self._theirs = socket.socketpair()
        self._mine.setblocking(False)
        self._theirs.setblocking(False)
        # Not select(): a process with a thousand open files would be beyond its reach.
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._mine, selectors.EVENT_READ)
        #: Whether the last `wait` was ended by `wake`.
        self.woken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, fd: int) -> None:
        """Let `wait` return as soon as this file descriptor can be read."""
        self._selector.register(fd, selectors.EVENT_READ)

    def remove(self, fd: int) -> None:
        """Forget a file descriptor that was added, closed by now or not."""
        self._selector.unregister(fd)

    def wake(self) -> None:
        """End the current or the next `wait`; safe in a signal handler, and after `close`."""
        # Full of wake-ups, or closed: either way nobody sleeps.
        with contextlib.suppress(OSError):
            self._theirs.send(b"\0")

    def wait(self, timeout_s: float | None) -> set[int]:
        """Sleep until woken, until a descriptor can be read, or for `timeout_s`; return those."""
        readable = {key.fd for key, _ in self._selector.select(timeout_s)}
        self.woken = self._mine.fileno() in readable
        if self.woken:
            readable.discard(self._mine.fileno())
            with contextlib.suppress(BlockingIOError):
                self._mine.recv(4096)
        return readable

    def close(self) -> None:
        """Close the pair of sockets."""
        self._selector.close()
        self._mine.close()
        self._theirs.close()
