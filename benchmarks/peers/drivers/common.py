"""What the Python drivers share: the verbs of the contract, the clients that send, the report.

Standard library only, Python 3.11 or later: each driver runs in its own peer's environment. It is
a module with a class that has the methods of `Driver`, and calls `main` with an object of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
import time
from array import array
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypedDict

_REPORT_EVERY_S = 0.1
# Clients of one run start together, or the run has failed.
_CONNECT_TIMEOUT_S = 60.0


class Payload(TypedDict):
    """What a task carries."""

    org: str
    n: int
    sent_ns: int
    pad: str


Send = Callable[[list[Payload]], object]
SendAsync = Callable[[list[Payload]], Awaitable[object]]
# The first task of a call, and when the call returned.
_Returned = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Load:
    """What `enqueue` was asked for; `batch` is 0 where the driver shall choose the size."""

    tasks: int
    orgs: int
    org: str | None = None
    clients: int = 1
    bulk: bool = False
    batch: int = 0
    gap_s: float = 0.0
    pad: int = 0
    fair: bool = False

    def payloads(self, numbers: range) -> list[Payload]:
        """Build the payloads of one call that begins now."""
        now, pad, org = time.monotonic_ns(), "x" * self.pad, self.org
        return [
            {"org": org or f"org{n % self.orgs}", "n": n, "sent_ns": now, "pad": pad}
            for n in numbers
        ]

    def calls(self, client: int, batch: int) -> Iterator[tuple[float, range]]:
        """Yield the calls of client 0 .. `clients` - 1: seconds after the first call at which it is
        due (0 without a gap), and the numbers of its tasks: one, or `batch` with `--bulk`.
        """
        size = (self.batch or batch) if self.bulk else 1
        firsts = range(0, self.tasks, size)
        for place in range(client, len(firsts), self.clients):
            first = firsts[place]
            yield place * self.gap_s, range(first, min(first + size, self.tasks))


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of a load: seconds from the first call to the return of the last, and, for loads
    with a gap, when each call returned, in the order in which they were due.
    """

    seconds: float
    returned_ns: list[int]


@dataclass(frozen=True, slots=True)
class Work:
    """How `work` was asked to run."""

    fast: bool
    fair: bool = False


class Report:
    """The file in which a worker says how far it is; `started` is cheap and safe in any thread."""

    def __init__(self, path: Path, trace: bool) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._instants = array("q")
        self._starts: list[tuple[str, int, int, int]] = []
        self._trace = trace
        self._closing = threading.Event()
        self._timer = threading.Thread(target=self._tell, name="report", daemon=True)

    def ready(self) -> None:
        """Say that this process takes tasks from now on."""
        self._write({"ready": True})
        self._timer.start()

    def started(self, org: str, n: int, sent_ns: int) -> None:
        """Note that the handler of task `n` was started now."""
        # Appending is atomic; a counter that several threads add to is not.
        now = time.monotonic_ns()
        self._instants.append(now)
        if self._trace:
            self._starts.append((org, n, now, sent_ns))

    def close(self) -> None:
        """Write the last line and end; a second call does nothing."""
        if self._file.closed:
            return
        self._closing.set()
        if self._timer.is_alive():
            self._timer.join()
        self._write({**self._progress(), **({"starts": self._starts} if self._trace else {})})
        self._file.close()

    def _progress(self) -> dict[str, int | None]:
        handled = len(self._instants)
        first, last = (self._instants[0], self._instants[handled - 1]) if handled else (None, None)
        return {"handled": handled, "first_ns": first, "last_ns": last}

    def _tell(self) -> None:
        told = 0
        while not self._closing.wait(_REPORT_EVERY_S):
            if len(self._instants) != told:
                progress = self._progress()
                told = progress["handled"] or 0
                self._write(progress)

    def _write(self, line: object) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


class Driver(Protocol):
    """One peer."""

    def version(self) -> str:
        """Return the peer's name and version."""

    def setup(self) -> None:
        """Create what the peer needs in an empty database."""

    def enqueue(self, load: Load) -> Sent:
        """Enqueue all, and say how long it took."""

    def work(self, work: Work, report: Report) -> None:
        """Take tasks until SIGTERM."""

    def pending(self) -> int:
        """Count the tasks that are not finished and acknowledged."""


def database_url() -> str:
    """Return the database that the driver shall use."""
    return os.environ["DATABASE_URL"]


def installed(distribution: str) -> str:
    """Return the name and the installed version of a distribution."""
    return f"{distribution} {version(distribution)}"


def enqueue_from_threads(
    load: Load, connect: Callable[[], AbstractContextManager[Send]], batch: int = 1000
) -> Sent:
    """Send from one thread per client, all starting once each has connected.

    `connect()` opens one client; its `send` enqueues the payloads of one call: one payload, or up
    to `batch` of them if the load is in bulk.
    """
    starts: list[float] = []
    together = threading.Barrier(load.clients, lambda: starts.append(time.monotonic()))

    def client(number: int) -> list[_Returned]:
        returned: list[_Returned] = []
        with _aborting(together), connect() as send:
            together.wait(_CONNECT_TIMEOUT_S)
            for due_s, numbers in load.calls(number, batch):
                wait_s = starts[0] + due_s - time.monotonic()
                if wait_s > 0:
                    time.sleep(wait_s)
                send(load.payloads(numbers))
                returned.append((numbers.start, time.monotonic_ns()))
        return returned

    with ThreadPoolExecutor(load.clients) as pool:
        returned = list(pool.map(client, range(load.clients)))
    return _sent(load, starts[0], returned)


def _sent(load: Load, start: float, by_client: Iterable[list[_Returned]]) -> Sent:
    """Put together what the clients say of their calls: first task, instant of return."""
    calls = sorted(call for calls in by_client for call in calls)
    last_ns = max((at_ns for _, at_ns in calls), default=0)
    return Sent(last_ns / 1e9 - start, [at_ns for _, at_ns in calls] if load.gap_s else [])


@contextmanager
def _aborting(together: threading.Barrier) -> Iterator[None]:
    """Let nobody wait for a client that failed."""
    try:
        yield
    except BaseException:
        together.abort()
        raise


def enqueue_from_coroutines(
    load: Load,
    connect: Callable[[], AbstractAsyncContextManager[SendAsync]],
    batch: int = 1000,
    run: Callable[[Coroutine[object, object, Sent]], Sent] = asyncio.run,
) -> Sent:
    """Send from one coroutine per client in a new event loop that `run` makes; else like
    `enqueue_from_threads`.
    """
    return run(_in_loop(load, connect, batch))


async def _in_loop(
    load: Load, connect: Callable[[], AbstractAsyncContextManager[SendAsync]], batch: int
) -> Sent:
    waiting, start = load.clients, 0.0
    together = asyncio.Event()

    async def client(number: int) -> list[_Returned]:
        nonlocal waiting, start
        returned: list[_Returned] = []
        async with connect() as send:
            waiting -= 1
            if not waiting:
                start = time.monotonic()
                together.set()
            await asyncio.wait_for(together.wait(), _CONNECT_TIMEOUT_S)
            for due_s, numbers in load.calls(number, batch):
                wait_s = start + due_s - time.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                await send(load.payloads(numbers))
                returned.append((numbers.start, time.monotonic_ns()))
        return returned

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(client(number)) for number in range(load.clients)]
    return _sent(load, start, [client.result() for client in clients])


def sigterm() -> threading.Event:
    """Return an event that SIGTERM (or SIGINT) sets; for the main thread of a worker."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def sigterm_async() -> asyncio.Event:
    """Return an event of the running loop that SIGTERM (or SIGINT) sets."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def main(driver: Driver, *, fair: bool = False) -> None:
    """Run the verb that the command line names; `fair`: this peer has a fairness of its own."""
    options = _parser(fair).parse_args()
    try:
        _run(driver, options)
    except Exception as error:
        raise SystemExit(_in_one_line(error)) from error


def _run(driver: Driver, options: argparse.Namespace) -> None:
    match options.verb:
        case "version":
            _answer({"version": driver.version()})
        case "setup":
            driver.setup()
        case "enqueue":
            _answer(asdict(driver.enqueue(_load(options))))
        case "work":
            _work(driver, options)
        case "pending":
            _answer({"pending": driver.pending()})


def _in_one_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _work(driver: Driver, options: argparse.Namespace) -> None:
    report = Report(options.report, options.trace)
    try:
        driver.work(Work(fast=options.fast, fair=options.fair), report)
    finally:
        report.close()


def _load(options: argparse.Namespace) -> Load:
    return Load(
        tasks=options.tasks,
        orgs=options.orgs,
        org=options.org,
        clients=options.clients,
        bulk=options.bulk,
        batch=options.batch,
        gap_s=options.gap_ms / 1000,
        pad=options.pad,
        fair=options.fair,
    )


def _parser(fair: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("version", "setup", "pending"):
        verbs.add_parser(name)
    enqueue = verbs.add_parser("enqueue")
    enqueue.add_argument("--tasks", type=int, required=True)
    enqueue.add_argument("--orgs", type=int, required=True)
    enqueue.add_argument("--org")
    enqueue.add_argument("--clients", type=int, default=1)
    enqueue.add_argument("--bulk", action="store_true")
    enqueue.add_argument("--batch", type=int, default=0, help="tasks per call with --bulk")
    enqueue.add_argument("--gap-ms", type=float, default=0.0)
    enqueue.add_argument("--pad", type=int, default=0)
    work = verbs.add_parser("work")
    work.add_argument("--report", type=Path, required=True)
    work.add_argument("--fast", action="store_true")
    work.add_argument("--trace", action="store_true")
    for verb in (enqueue, work):
        verb.set_defaults(fair=False)
        if fair:
            verb.add_argument("--fair", action="store_true", help="the peer's own fairness")
    return parser


def _answer(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
