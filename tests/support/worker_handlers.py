"""Handlers that a process of its own can import, and those it cannot survive."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg

from orchestrator.worker.app import App, Discard, Snooze, Task

app = App()


def mark(task: Task, **extra: Any) -> None:
    """Leave a mark in the test's database: which process ran which attempt."""
    with psycopg.connect(task.payload["dsn"], autocommit=True) as connection:
        connection.execute(
            "insert into mark (task_id, attempt, pid, note) values (%s, %s, %s, %s)",
            [task.id, task.attempt, os.getpid(), extra.get("note")],
        )


@app.task("mark")
def leave_mark(task: Task) -> None:
    mark(task)


@app.task("hang")
def hang(task: Task) -> None:
    mark(task)
    threading.Event().wait()


@app.task("hang once")
def hang_once(task: Task) -> None:
    mark(task)
    if task.attempt == 1:
        threading.Event().wait()


@app.task("spin")
def spin(task: Task) -> None:
    mark(task)
    while True:
        pass


@app.task("hold")
def hold(task: Task) -> None:
    mark(task)
    # Called with the interpreter's lock held: no other thread of the process runs any more.
    ctypes.PyDLL(None).sleep(600)


@app.task("hold once")
def hold_once(task: Task) -> None:
    if task.attempt == 1:
        mark(task, note="holds")
        ctypes.PyDLL(None).sleep(task.payload["hold_s"])


@app.task("eat memory")
def eat_memory(task: Task) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    # What it has, and a little: for the machine's sake, where there is no other limit.
    limit = pages * resource.getpagesize() + 64 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    eaten: list[bytes] = []
    try:
        while True:
            eaten.append(bytes(2**20))
    finally:
        eaten.clear()
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


@app.task("be killed for memory")
def be_killed(task: Task) -> None:
    # As the kernel does where memory is out.
    os.kill(os.getpid(), signal.SIGKILL)


@app.task("spawn and hang")
def spawn_and_hang(task: Task) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    mark(task, note=str(sleeper.pid))
    threading.Event().wait()


@app.task("exit")
def leave(task: Task) -> None:
    os._exit(7)


@app.task("segfault")
def crash(task: Task) -> None:
    ctypes.string_at(0)


@app.task("raise")
def fail(task: Task) -> None:
    raise ValueError("no such thing")


@app.task("quit")
def quit_process(task: Task) -> None:
    sys.exit("enough")


@app.task("snooze")
def snooze(task: Task) -> Snooze | None:
    mark(task)
    return Snooze(0.01, "not yet") if task.payload["naps"] else None


@app.task("steps")
def work_in_steps(task: Task) -> Snooze | None:
    """Go on step by step until told to make room, or until it may end."""
    mark(task, note="begun")
    with psycopg.connect(task.payload["dsn"], autocommit=True) as connection:
        while True:
            if task.yielding:
                mark(task, note="yielded")
                return Snooze(reason="made room")
            if connection.execute("select 1 from mark where note = 'end'").fetchone():
                return None
            threading.Event().wait(0.01)


@app.task("discard")
def discard(task: Task) -> Discard:
    return Discard("nobody wants it")


@app.task("do nothing")
def do_nothing(task: Task) -> None:
    pass


@app.task("wait")
def wait(task: Task) -> None:
    threading.Event().wait()


class Unreadable(Discard):
    """An answer that only the process which made it can make."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


@app.task("unreadable")
def answer_unreadably(task: Task) -> Discard:
    return Unreadable()


@app.task("wrong")
def wrong(task: Task) -> Any:
    return 42
