"""What a worker process of a peer says in its report file, read while the file grows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Start(NamedTuple):
    """One start of a handler: of which task, when, and when the call that enqueued it began."""

    org: str
    n: int
    started_ns: int
    sent_ns: int


class Point(NamedTuple):
    """So many handlers had been started at this instant."""

    at_ns: int
    handled: int


class MalformedReport(ValueError):
    """The report holds a line that the contract does not know."""


class Report:
    """One report file; `refresh` reads what was added since, and no line before it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.ready = False
        self.first_ns: int | None = None
        #: Every progress line, the newest last.
        self.points: list[Point] = []
        #: Of a process that was asked to trace and has ended.
        self.starts: Sequence[Start] | None = None

    @property
    def handled(self) -> int:
        """Return how many handlers were started so far."""
        return self.points[-1].handled if self.points else 0

    def refresh(self) -> None:
        """Read the complete lines that were added; raise `MalformedReport`."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                added = file.read()
        except FileNotFoundError:
            return
        complete = added[: added.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines():
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise MalformedReport(f"not a line of a report: {line[:80]!r}") from error

    def handled_at(self, at_ns: int) -> float:
        """Return how many handlers had been started by then, evenly between two lines."""
        if self.first_ns is None or at_ns < self.first_ns:
            return 0.0
        before = Point(self.first_ns, 1)
        for after in self.points:
            if after.at_ns >= at_ns and after.at_ns > before.at_ns:
                part = (at_ns - before.at_ns) / (after.at_ns - before.at_ns)
                return before.handled + part * (after.handled - before.handled)
            before = after
        return float(before.handled)

    def _take(self, line: dict[str, Any]) -> None:
        if line.get("ready"):
            self.ready = True
            return
        handled = int(line["handled"])
        if handled:
            self.first_ns = int(line["first_ns"])
            self.points.append(Point(int(line["last_ns"]), handled))
        if "starts" in line:
            self.starts = [
                Start(str(org), int(n), int(at), int(sent)) for org, n, at, sent in line["starts"]
            ]


class Rate(NamedTuple):
    """Starts in a span of time: while all processes took tasks, until the last start of any."""

    handled: float
    span_s: float

    @property
    def per_s(self) -> float:
        """Return tasks per second."""
        return self.handled / self.span_s if self.span_s > 0 else 0.0


def rate(reports: Iterable[Report]) -> Rate:
    """Return the rate of processes that worked side by side; one that handled nothing is left out.

    The span begins at the first start of the process that was last to begin, and ends with the last
    start of all.
    """
    busy = [report for report in reports if report.first_ns is not None]
    if not busy:
        return Rate(0.0, 0.0)
    begins_ns = max(report.first_ns or 0 for report in busy)
    ends_ns = max(report.points[-1].at_ns for report in busy)
    handled = sum(report.handled - report.handled_at(begins_ns) for report in busy)
    return Rate(handled, (ends_ns - begins_ns) / 1e9)
