"""The harness side of the drivers: how their processes are run and what they answer.

Every wait is bounded, and no process outlives its context: a driver that fails, or does not come to
an end, raises `PeerFailed` with the last thing it said.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from benchmarks.peers.report import MalformedReport, Rate, Report, Start, rate

REPOSITORY = Path(__file__).resolve().parents[2]
_LEASH = str(Path(__file__).with_name("leash.py"))
# Connecting and creating tables; some peers import for seconds.
CALL_PATIENCE_S = 60.0
START_PATIENCE_S = 30.0
# After SIGTERM: what is running may end, what is buffered is given back. Then it is killed.
STOP_PATIENCE_S = 15.0
# How often report files are read; the drivers write them every 100 ms.
_LOOK_S = 0.03


class PeerFailed(Exception):
    """A driver could not do what it was asked."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A queue that is measured: how its driver is called, and what it can do."""

    name: str
    command: tuple[str, ...]
    #: Whether it has a bulk path.
    bulk: bool = True
    #: Its own fairness feature, switched on by `--fair` in both enqueue and work; "" for none.
    fair: str = ""
    #: Whether a process that admits runs beside its workers (verb `lead`).
    leads: bool = False
    note: str = ""
    #: What must exist for it to run, and is made by scripts/peers.sh.
    needs: tuple[Path, ...] = ()

    @property
    def missing(self) -> str:
        """Return why it cannot run here, "" if it can."""
        for path in self.needs:
            if not path.exists():
                return f"{path.name} is not installed (scripts/peers.sh)"
        if shutil.which(self.command[0]) is None:
            return f"{Path(self.command[0]).name} is not installed"
        return ""


class Load(NamedTuple):
    """What to enqueue, as the contract names it; with `batch` 0 the peer has its own size."""

    tasks: int
    orgs: int = 20
    org: str = ""
    clients: int = 1
    bulk: bool = False
    batch: int = 0
    gap_ms: float = 0.0
    pad: int = 0
    fair: bool = False

    def options(self) -> list[str]:
        """Return the options of the verb."""
        given: list[str] = ["--tasks", str(self.tasks), "--orgs", str(self.orgs)]
        given += ["--clients", str(self.clients)]
        given += ["--org", self.org] if self.org else []
        given += ["--bulk"] if self.bulk else []
        given += ["--batch", str(self.batch)] if self.batch else []
        given += ["--gap-ms", f"{self.gap_ms:g}"] if self.gap_ms else []
        given += ["--pad", str(self.pad)] if self.pad else []
        return given + (["--fair"] if self.fair else [])


class Work(NamedTuple):
    """How workers run; `batch` is an option of those written by hand and of ours, `linger_ms` of
    ours.
    """

    fast: bool = False
    trace: bool = False
    batch: int = 0
    fair: bool = False
    linger_ms: float = 0.0

    def options(self) -> list[str]:
        """Return the options of the verb, without the report file."""
        given = ["--fast"] if self.fast else []
        given += ["--trace"] if self.trace else []
        given += ["--batch", str(self.batch)] if self.batch else []
        given += ["--linger-ms", f"{self.linger_ms:g}"] if self.linger_ms else []
        return given + (["--fair"] if self.fair else [])


# One call ----------------------------------------------------------------------------------------


def version(peer: Peer, dsn: str = "") -> str:
    """Return the name and version of what is measured."""
    return str(_answer(peer, dsn, "version", [], CALL_PATIENCE_S, "version"))


def setup(peer: Peer, dsn: str) -> None:
    """Create what the peer needs in an empty database."""
    _call(peer, dsn, "setup", [], CALL_PATIENCE_S)


def enqueue(peer: Peer, dsn: str, load: Load, *, patience_s: float = CALL_PATIENCE_S) -> float:
    """Enqueue; return the seconds from the first call to the return of the last."""
    return float(_answer(peer, dsn, "enqueue", load.options(), patience_s, "seconds"))


def pending(peer: Peer, dsn: str) -> int:
    """Return how many tasks are not finished and acknowledged; not while measuring: it counts."""
    return int(_answer(peer, dsn, "pending", [], CALL_PATIENCE_S, "pending"))


@contextmanager
def enqueueing(peer: Peer, dsn: str, load: Load) -> Iterator[Callable[[float], list[int]]]:
    """Enqueue beside what the body does; yield what waits for its end, for so many seconds.

    It returns when each call returned, which is known of loads with a gap.
    """
    child = _spawn(peer, dsn, ["enqueue", *load.options()], subprocess.PIPE)

    def finish(patience_s: float) -> list[int]:
        said = _finish(peer, "enqueue", child, patience_s)
        return [int(at_ns) for at_ns in _parsed(peer, "enqueue", said, "returned_ns")]

    try:
        yield finish
    finally:
        _end(child)


def _answer(
    peer: Peer, dsn: str, verb: str, options: Sequence[str], patience_s: float, name: str
) -> Any:
    return _parsed(peer, verb, _call(peer, dsn, verb, options, patience_s), name)


def _parsed(peer: Peer, verb: str, said: str, name: str) -> Any:
    try:
        return json.loads(said.strip().splitlines()[-1])[name]
    except (ValueError, LookupError, TypeError) as error:
        raise PeerFailed(f"{peer.name} {verb}: answered {said.strip()[-120:]!r}") from error


def _call(peer: Peer, dsn: str, verb: str, options: Sequence[str], patience_s: float) -> str:
    """Run one verb to its end; return what it printed."""
    child = _spawn(peer, dsn, [verb, *options], subprocess.PIPE)
    try:
        return _finish(peer, verb, child, patience_s)
    finally:
        _end(child)


def _finish(peer: Peer, verb: str, child: subprocess.Popen[bytes], patience_s: float) -> str:
    try:
        printed, complained = child.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"{peer.name} {verb}: no end after {patience_s:g} s") from None
    if child.returncode:
        raise PeerFailed(f"{peer.name} {verb}: {_reason(child.returncode, complained)}")
    return printed.decode(errors="replace")


# Workers -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Process:
    verb: str
    child: subprocess.Popen[bytes]
    complaints: Path
    report: Report | None = None


class Working:
    """The running processes of a peer: workers with their reports and, where it leads, a leader."""

    def __init__(self, peer: Peer, dsn: str, directory: Path) -> None:
        self.peer = peer
        self._dsn = dsn
        self._directory = directory
        self._processes: list[_Process] = []

    @property
    def reports(self) -> list[Report]:
        """Return the workers' reports as last read."""
        return [each.report for each in self._processes if each.report is not None]

    @property
    def handled(self) -> int:
        """Return how many handlers were started, as last read."""
        return sum(report.handled for report in self.reports)

    @property
    def rate(self) -> Rate:
        """Return the rate so far, as last read."""
        return rate(self.reports)

    def pids(self) -> list[int]:
        """Return the process ids, for whoever measures CPU or memory."""
        return [each.child.pid for each in self._processes]

    def start(self, work: Work, processes: int = 1, *, lead: bool = True) -> None:
        """Start workers side by side and wait until all are ready; then the leader, if any."""
        for _ in range(processes):
            self._start_worker(work)
        self._wait_until(lambda: all(r.ready for r in self.reports), START_PATIENCE_S, "be ready")
        if lead:
            self.lead()

    def lead(self) -> None:
        """Start a process that admits, if the peer has such."""
        if self.peer.leads:
            self._start("lead", [])

    def wait(self, handled: int, patience_s: float) -> bool:
        """Wait until so many handlers were started; return False where that took too long."""
        try:
            self._wait_until(lambda: self.handled >= handled, patience_s, f"start {handled} tasks")
        except _OutOfPatience:
            return False
        return True

    def stop(self) -> None:
        """End the processes in good order, the workers first; raise if one has to be killed."""
        for verb in ("work", "lead"):
            self._stop([each for each in self._processes if each.verb == verb])
        self._read()

    def starts(self) -> list[Start]:
        """Return every start of a handler in order of time; after `stop`, of traced workers."""
        found = [start for report in self.reports for start in report.starts or ()]
        return sorted(found, key=lambda start: start.started_ns)

    def kill(self) -> None:
        """End what is left."""
        for each in self._processes:
            _end(each.child)

    def _start_worker(self, work: Work) -> None:
        path = self._directory / f"report-{len(self._processes)}"
        self._start("work", ["--report", str(path), *work.options()], Report(path))

    def _start(self, verb: str, options: Sequence[str], report: Report | None = None) -> None:
        complaints = self._directory / f"stderr-{len(self._processes)}"
        with complaints.open("wb") as file:
            child = _spawn(self.peer, self._dsn, [verb, *options], file)
        self._processes.append(_Process(verb, child, complaints, report))

    def _wait_until(self, met: Any, patience_s: float, what: str) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            self._read()
            if met():
                return
            for each in self._processes:
                if each.child.poll() is not None:
                    raise self._failed(each)
            if time.monotonic() > deadline:
                raise _OutOfPatience(f"{self.peer.name} work: did not {what} in {patience_s:g} s")
            time.sleep(_LOOK_S)

    def _stop(self, processes: Sequence[_Process]) -> None:
        for each in processes:
            if each.child.poll() is not None:
                raise self._failed(each)
            each.child.terminate()
        for each in processes:
            try:
                each.child.wait(STOP_PATIENCE_S)
            except subprocess.TimeoutExpired:
                raise PeerFailed(
                    f"{self.peer.name} {each.verb}: no end {STOP_PATIENCE_S:g} s after SIGTERM"
                ) from None

    def _read(self) -> None:
        for report in self.reports:
            try:
                report.refresh()
            except MalformedReport as error:
                raise PeerFailed(f"{self.peer.name} work: {error}") from error

    def _failed(self, process: _Process) -> PeerFailed:
        why = _reason(process.child.returncode, process.complaints.read_bytes())
        return PeerFailed(f"{self.peer.name} {process.verb}: {why}")


class _OutOfPatience(PeerFailed):
    """What was waited for did not come in time."""


@contextmanager
def working(peer: Peer, dsn: str, directory: Path) -> Iterator[Working]:
    """Yield `Working` without a process yet; at the end all its processes have ended."""
    processes = Working(peer, dsn, directory)
    try:
        yield processes
    finally:
        processes.kill()


def _spawn(
    peer: Peer, dsn: str, arguments: Sequence[str], complaints: IO[bytes] | int
) -> subprocess.Popen[bytes]:
    kept = {name: v for name, v in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
    return subprocess.Popen(
        [sys.executable, "-S", _LEASH, *peer.command, *arguments],
        cwd=REPOSITORY,
        env=kept | {"DATABASE_URL": dsn, "LEASH_PARENT": str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if complaints == subprocess.PIPE else subprocess.DEVNULL,
        stderr=complaints,
        # A group of its own: Ctrl-C is the harness's to handle, and a kill takes children along.
        start_new_session=True,
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the process and what it started, unless it has ended."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()


def _reason(code: int, complained: bytes) -> str:
    """Return the last thing said; what is indented belongs to a line before it, or to a stack."""
    lines = [line for line in complained.decode(errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if not line[0].isspace()] or lines
    return said[-1].strip()[:300] if said else f"exit status {code}, and nothing said"
