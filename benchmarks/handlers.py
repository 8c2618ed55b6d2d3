"""The tasks of the benchmarks: they do nothing, so that only the queue is measured."""

from __future__ import annotations

from benchmarks.peers.drivers.common import Report
from orchestrator.worker.app import App, Task

app = App()


class Noop:
    """Does nothing, except that it notes its start where somebody set a report."""

    def __init__(self) -> None:
        self.report: Report | None = None

    def __call__(self, task: Task) -> None:
        """Do nothing."""
        if self.report is not None:
            payload = task.payload
            self.report.started(payload["org"], payload["n"], payload["sent_ns"])


noop = Noop()
app.task("noop")(noop)
