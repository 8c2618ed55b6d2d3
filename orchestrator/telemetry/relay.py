"""The metrics of a child process on its parent's listener: `run --http` serves HTTP in a child.

The two share a pair of sockets that the child inherits. The parent asks when it is scraped, the
child answers with its exposition, on a thread of its own. A scrape waits for it for `BUDGET_S` and
then goes without: a child that is busy, hangs or has just died costs the monitor its metrics and
nobody else theirs. An answer that came too late is passed over by its number.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterable

import structlog
from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.telemetry.exposition import Merged
from orchestrator.telemetry.metrics import REGISTRY

log = structlog.get_logger()

BUDGET_S = 0.25
_QUESTION = struct.Struct("!I")
# Number of the question, length of the answer.
_ANSWER = struct.Struct("!II")
# Far more than all of our metrics take.
_ANSWER_MAX = 16 * 1024**2
_PART = 65536
_MOMENT_S = 0.001


class Relay:
    """The parent's end; one child at a time."""

    def __init__(self, budget_s: float = BUDGET_S) -> None:
        self._budget_s = budget_s
        self._lock = threading.Lock()
        self._mine: socket.socket | None = None
        self._number = 0
        # What has come so far; half an answer stays for the next time.
        self._came = bytearray()

    def renew(self) -> socket.socket:
        """Return the end for a new child, to be inherited and then closed here."""
        mine, theirs = socket.socketpair()
        with self._lock:
            self._drop()
            self._mine = mine
        return theirs

    def close(self) -> None:
        """Ask no more."""
        with self._lock:
            self._drop()

    def collect(self) -> Iterable[Metric]:
        """Return the child's families; none where it does not answer in time."""
        # One scrape asks at a time; who comes meanwhile goes without rather than wait twice.
        if not self._lock.acquire(timeout=self._budget_s):
            return []
        try:
            return [] if self._mine is None else list(self._asked(self._mine))
        except TimeoutError:
            log.debug("metrics.child_late")
            return []
        except (OSError, ValueError):
            # Dead, or not to be understood: until there is a new child.
            self._drop()
            return []
        finally:
            self._lock.release()

    def _asked(self, mine: socket.socket) -> Iterable[Metric]:
        deadline = time.monotonic() + self._budget_s
        self._number = (self._number + 1) % 2**32
        mine.settimeout(self._budget_s)
        mine.sendall(_QUESTION.pack(self._number))
        while True:
            answer = self._whole_answer()
            if answer is None:
                mine.settimeout(max(_MOMENT_S, deadline - time.monotonic()))
                part = mine.recv(_PART)
                if not part:
                    raise ConnectionError("the child is gone")
                self._came += part
                if time.monotonic() > deadline:
                    raise TimeoutError
            elif answer[0] == self._number:
                return text_string_to_metric_families(answer[1].decode())

    def _whole_answer(self) -> tuple[int, bytes] | None:
        """Return the number and the text of the next answer, once all of it has come."""
        if len(self._came) < _ANSWER.size:
            return None
        number, length = _ANSWER.unpack_from(self._came)
        if length > _ANSWER_MAX:
            raise ValueError("an answer that is none")
        end = _ANSWER.size + length
        if len(self._came) < end:
            return None
        text = bytes(self._came[_ANSWER.size : end])
        del self._came[:end]
        return number, text

    def _drop(self) -> None:
        if self._mine is not None:
            self._mine.close()
            self._mine = None
            self._came.clear()


def serve(theirs: socket.socket) -> threading.Thread:
    """Answer the parent on a thread, in the child, until either ends."""
    theirs.setblocking(True)
    thread = threading.Thread(target=_serve, args=(theirs,), name="metrics", daemon=True)
    thread.start()
    return thread


def _serve(theirs: socket.socket) -> None:
    with theirs:
        try:
            while True:
                question = theirs.recv(_QUESTION.size, socket.MSG_WAITALL)
                if len(question) < _QUESTION.size:
                    return
                (number,) = _QUESTION.unpack(question)
                body = generate_latest(Merged([REGISTRY.collect]))
                theirs.sendall(_ANSWER.pack(number, len(body)) + body)
        except OSError:
            return  # the parent is gone, and soon so are we
