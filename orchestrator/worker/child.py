"""The inside of a handler's own process: it does what the pipe asks, and dies with the worker."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys
import threading
from enum import Enum
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, NamedTuple

from orchestrator.errors import InvalidInput
from orchestrator.worker.app import Task, checked, resolve
from orchestrator.worker.errortext import describe

_PR_SET_PDEATHSIG = 1


class Mark(Enum):
    """What the process says besides results."""

    STARTED = "started"


STARTED = Mark.STARTED
Request = tuple[str, str, Task]


class Told(NamedTuple):
    """What the task that was asked for last was told meanwhile."""

    stopping: bool
    yielding: bool


def main(pipe: Connection, parent: int) -> None:
    """Run one request after the other, until the pipe is closed."""
    _outlive_nobody(parent)
    requests: SimpleQueue[Request] = SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, requests), daemon=True).start()
    while True:
        module, path, task = requests.get()
        pipe.send(_answer(pipe, module, path, task))


def _answer(pipe: Connection, module: str, path: str, task: Task) -> tuple[object, str | None]:
    """Call the handler; return (what it returned, None) or (None, what went wrong)."""
    try:
        function = resolve(importlib.import_module(module), path)
        if function is None:
            raise InvalidInput(f"this process finds no {path} in the module {module}")
        pipe.send(STARTED)
        return checked(function(task)), None
    except BaseException as error:  # noqa: BLE001 - also SystemExit ends an attempt, not the process
        return None, describe(error)


def _receive(pipe: Connection, requests: SimpleQueue[Request]) -> None:
    """Pass requests on, and to the task of the last one what it is told; the end of the pipe is
    the end of this process, whatever it is doing.
    """
    task: Task | None = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = pipe.recv()
            if isinstance(message, Told):
                if task is not None:
                    task.stopping, task.yielding = message
                continue
            module, path, claim = message
            task = Task(claim)
            requests.put((module, path, task))
    with contextlib.suppress(OSError):
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _outlive_nobody(parent: int) -> None:
    """Die with the worker even in the middle of a handler; leave its signals to the worker."""
    # A group of its own: Ctrl-C in a terminal goes to the worker alone, and a kill takes along what
    # the handler started.
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    # Service managers signal every process of a service; the worker decides what happens to tasks.
    # A function and not SIG_IGN, which programs started by the handler would inherit.
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, lambda *_: None)
    if sys.platform == "linux":
        # For handlers that never give up the interpreter; the reader thread covers the others.
        with contextlib.suppress(OSError, AttributeError):
            libc: Any = ctypes.CDLL(None)
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
