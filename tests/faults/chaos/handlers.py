"""Handlers that do all a handler should not, and write down each start and each end."""

from __future__ import annotations

import asyncio
import os
import random
import time

from orchestrator.worker.app import App, Discard, Snooze, Task
from tests.faults.chaos import journal

app = App()


def _note(event: str, task: Task) -> None:
    journal.write(
        os.environ["CHAOS_JOURNAL"],
        event,
        task=task.id,
        attempt=task.attempt,
        org=task.org,
        payload_org=task.payload["org"],
        parent=os.getppid(),
    )


@app.task("ok")
def ok(task: Task) -> None:
    _note("start", task)
    time.sleep(task.payload["ms"] / 1000)
    _note("end", task)


@app.task("aok")
async def aok(task: Task) -> None:
    _note("start", task)
    await asyncio.sleep(task.payload["ms"] / 1000)
    _note("end", task)


@app.task("flaky")
def flaky(task: Task) -> None:
    _note("start", task)
    if task.attempt == 1:
        raise RuntimeError("not this time")
    _note("end", task)


@app.task("fail")
def fail(task: Task) -> None:
    _note("start", task)
    raise RuntimeError("never")


@app.task("snooze")
def snooze(task: Task) -> Snooze | None:
    _note("start", task)
    return Snooze(0.05) if random.random() < 0.5 else None


@app.task("discard")
def discard(task: Task) -> Discard:
    _note("start", task)
    return Discard("nobody wants it")


@app.task("exit")
def leave(task: Task) -> None:
    """Have the effect, and take the process down before anybody is told."""
    _note("start", task)
    _note("end", task)
    if task.attempt == 1:
        os._exit(9)


@app.task("poison")
def poison(task: Task) -> None:
    _note("start", task)
    os._exit(9)


@app.task("hang")
async def hang(task: Task) -> None:
    _note("start", task)
    await asyncio.sleep(3600)
