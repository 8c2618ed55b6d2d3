"""The windows of the fairness signal, as the leader writes them down."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from datetime import datetime

from orchestrator.model import FairnessReport
from orchestrator.store.sql import Operation, Statements

SQL = Statements("fairness")

_FIELDS = {field.name for field in fields(FairnessReport)}


@dataclass(frozen=True, slots=True)
class Window:
    """One window of the signal; it ended `ago_s` before it was read."""

    ended_at: datetime
    ago_s: float
    report: FairnessReport


def record(queue: int, report: FairnessReport) -> Operation:
    """Write one window down that ends now."""
    yield SQL.call(
        "record", queue=queue, window_s=report.window_s, report=json.dumps(asdict(report))
    )


def recent(queue: int, limit: int) -> Operation:
    """Return the last `Window`s of a queue, the newest first."""
    rows = yield SQL.call("recent", queue=queue, limit=limit)
    windows = []
    for at, ago_s, text in rows:
        told = json.loads(text)
        # A leader of another version may have written it: what it does not say is not shown.
        if told.keys() >= _FIELDS:
            report = FairnessReport(**{name: told[name] for name in _FIELDS})
            windows.append(Window(at, ago_s, report))
    return windows
