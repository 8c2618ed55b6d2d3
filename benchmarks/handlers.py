"""The tasks of the benchmarks: they do nothing, so that only the queue is measured."""

from __future__ import annotations

from orchestrator.worker.app import App, Task

app = App()


@app.task("noop")
def noop(task: Task) -> None:
    """Do nothing."""
