"""The producers of the demonstration: one flood at the start, then a steady trickle."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence

from orchestrator.client import Client
from orchestrator.demo.scenario import TASK_MS, Part
from orchestrator.model import TaskSpec

_STEP_S = 0.05


class Feed:
    """Enqueues in a thread of its own, so that a slow screen never slows the arrivals."""

    def __init__(self, client: Client, parts: Sequence[Part], seconds: float) -> None:
        self._client = client
        self._parts = parts
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed")
        self.error: Exception | None = None
        self.enqueued = 0
        self.ended = threading.Event()

    def start(self) -> None:
        """Start enqueueing."""
        self._thread.start()

    def stop(self) -> None:
        """Stop enqueueing and wait for the last batch."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._flood()
            self._trickle()
        except Exception as error:  # noqa: BLE001 - carried to the thread that asks for it
            self.error = error
        finally:
            self.ended.set()

    def _flood(self) -> None:
        specs = [_spec(part) for part in self._parts for _ in range(part.flood)]
        self.enqueued += len(self._client.enqueue_many(specs))

    def _trickle(self) -> None:
        started = time.monotonic()
        sent: Counter[str] = Counter()
        while (elapsed := time.monotonic() - started) < self._seconds:
            specs = []
            for part in self._parts:
                missing = int(part.per_s * elapsed) - sent[part.org]
                sent[part.org] += missing
                specs += [_spec(part)] * missing
            if specs:
                self.enqueued += len(self._client.enqueue_many(specs))
            if self._stop.wait(_STEP_S):
                return


def _spec(part: Part) -> TaskSpec:
    return TaskSpec(name="work", payload={"ms": TASK_MS}, org=part.org, workload="api")
