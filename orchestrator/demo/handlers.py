"""The work that the demonstration's workers do: wait for as long as the payload says."""

from __future__ import annotations

import time

from orchestrator.worker.app import App, Task

app = App()


@app.task("work")
def work(task: Task) -> None:
    """Take `task.payload["ms"]` milliseconds, as a call to some service would."""
    time.sleep(task.payload["ms"] / 1000)
