"""Handlers that the acceptance tests of `worker` run."""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.worker.app import App, Task

# For tests that name it where an App belongs.
NO_APP = "no app"

app = App()


@app.task("note")
def note(task: Task) -> None:
    """Write the payload's text into the payload's file."""
    Path(task.payload["file"]).write_text(task.payload["text"])


@app.task("hang")
def hang(task: Task) -> None:
    """Say that it began, and go on until the process ends."""
    Path(task.payload["file"]).touch()
    while True:
        time.sleep(0.05)
