"""Publishes below which keys no claim need look, for ordinary and for express work.

A floor is never higher than the smallest unclaimed key, nor than a key that a later admission can
still get, so it never hides a row; a takeover finds it anew by a full scan.
"""

from __future__ import annotations

import time

from orchestrator.model import PRIORITY_MAX
from orchestrator.store import admission
from orchestrator.store.admission import Probe
from orchestrator.store.leadership import Term
from orchestrator.store.names import EXPRESS_SHIFT
from orchestrator.store.sql import Call


class Floors:
    """Both floors of one queue during one term; to be set only under the fence."""

    def __init__(self, term: Term, interval_s: float) -> None:
        self._term = term
        self.interval_s = interval_s
        self._main: int | None = None
        self._express: int | None = None
        self._set_at = 0.0

    @property
    def due(self) -> bool:
        """Tell whether it is time to publish again."""
        return time.monotonic() - self._set_at >= self.interval_s

    @property
    def overdue(self) -> bool:
        """Tell whether it was time some time ago."""
        return time.monotonic() - self._set_at >= 2 * self.interval_s

    def calls(self, probe: Probe, admit_seq: int, kappa: int, *, express: bool) -> list[Call]:
        """Return the statements that publish what changed, to be sent before any insert of the tick
        that looked.

        `admit_seq` is the last one committed, never one that this tick may still take back.
        `express` tells whether any express work may come. `probe` may be older than the fence, if
        it is of this term: nobody else adds to what is ready, so no key lies below its lowest.
        """
        self._set_at = time.monotonic()
        calls = []
        coming = (admit_seq + 1 - PRIORITY_MAX * kappa) * 16
        floor = coming if probe.lowest is None else min(probe.lowest, coming)
        if floor != self._main:
            calls.append(admission.set_floor(self._term, floor))
            self._main = floor
        if not express and probe.express_lowest is None:
            return calls
        coming -= EXPRESS_SHIFT
        floor = coming if probe.express_lowest is None else min(probe.express_lowest, coming)
        if floor != self._express:
            calls.append(admission.set_express_floor(self._term, floor))
            self._express = floor
        return calls
