"""An app whose tasks hold their slot for a while without using a processor, and workers for it."""

from __future__ import annotations

import time

from benchmarks.load import stage_tasks
from benchmarks.stage import Stage, wait_for
from orchestrator.worker.app import App, Task

app = App()


@app.task("hold")
def hold(task: Task) -> None:
    """Sleep for as many seconds as the payload says."""
    time.sleep(task.payload["seconds"])


@app.task("noop")
def noop(task: Task) -> None:
    """Do nothing."""


def stage_holding(on: Stage, tasks: int, orgs: int, seconds: float) -> None:
    """Stage tasks that take so long each."""
    stage_tasks(on.connection, tasks, orgs, name="hold", payload=f'{{"seconds": {seconds}}}')


def start_workers(on: Stage, count: int, *options: str, concurrency: int = 10) -> list[int]:
    """Start so many worker processes at once, wait until they have parked; return their pids."""
    wanted = on.parked() + count * concurrency
    pids = [
        on.processes.start(
            "worker",
            "benchmarks.speed.holding:app",
            "--concurrency",
            str(concurrency),
            *options,
        )
        for _ in range(count)
    ]
    wait_for(lambda: on.parked() >= wanted, "the workers to start", 60)
    return pids
