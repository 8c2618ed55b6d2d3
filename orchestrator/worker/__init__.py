"""The worker: an app of handlers, and the process that claims tasks and runs them.

## The protocol

**Who is authoritative.** PostgreSQL. A worker runs what it has leased; its claim id fences every
word it says about a task, so a worker that was away too long changes nothing any more.

**Threads.** The *fetcher* claims into a line in memory and sleeps when there is nothing (`fetcher`,
`source`, `pace`). *Handler threads* and the *event loop* take tasks out of the line, each task a
slot (`buffer`, `lane`, `threads`, `loop`, `process`). The *ack thread* tells the database in
batches how attempts ended (`acks`). The *heartbeat* extends leases and hears of cancellations
(`heartbeat`). Those that talk to the database have a connection each, so that none waits for
another.

**States of a task here.** *claimed* (in line: nothing has happened, it can be given back unharmed)
-> *running* (holds a slot) -> *ended* (its slot is free, its ending waits for the next flush) ->
*acknowledged*. The lease is extended until the last of its tasks is acknowledged.

**Express work.** Where some workload is express, a tenth of the slots (or what the queue says; at
least one, never the last one) is kept for it: ordinary tasks are neither run there nor claimed for
them. Express tasks have a line of their own, which goes first and may use any slot. Nothing else
lets a task of milliseconds past tasks of hours, since those cannot be interrupted.

**Cost.** The ending of an attempt tells how long it held its slot, by the monotonic clock; one that
never started has cost nothing. The database accepts at most the time since the claim.

**Failure cases.**
- *The handler raises, answers wrongly, takes too long:* a failed attempt, tried again after a
  backoff. Nothing a handler raises ends the worker, not even `SystemExit`.
- *The handler takes the process down:* with a timeout it runs in a process of its own, and only
  that attempt fails. Without one the worker dies, its leases expire, and the task runs again,
  alone: whatever was beside it is given back first, so that it cannot take them along twice.
- *The connection is lost while acknowledging:* the flush is sent again as it is. While claiming:
  the next claim first looks what the lost one took, and gives it back.
- *A lease is lost* (the heartbeat was away too long): what has not started is dropped, what runs is
  told by `task.cancelled`, coroutines and processes are ended. The database says so, or, where it
  cannot be reached, our own clock.
- *The task is cancelled:* the same, and it ends as cancelled.
- *A critical task wants its slot:* one in line is given back, a running one sees `task.yielding`.
- *A thread of the worker fails:* a mistake of this code. The worker drains and `run` raises it.

**Stopping.** No more claims; the line is given back, attempts not counted; `task.should_yield` is
set. Running tasks have `drain_timeout_s`, with heartbeats going on. Then coroutines and processes
are ended and given back; a thread cannot be ended, so its task is left to its lease: it may be
about to finish. Last the acks are flushed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from orchestrator.worker.app import App, Discard, Done, Snooze, Task

if TYPE_CHECKING:
    from orchestrator.worker.worker import Worker

__all__ = ["App", "Discard", "Done", "Snooze", "Task", "Worker"]


def __getattr__(name: str) -> Any:
    # On demand: whoever only defines handlers, such as their own process, needs no database.
    if name != "Worker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("orchestrator.worker.worker").Worker
