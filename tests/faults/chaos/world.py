"""The processes of one run, the network between them, and who is who."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection

from orchestrator.client import Client
from orchestrator.errors import OrchestratorError
from tests.faults.chaos import journal
from tests.faults.chaos.nursery import Nursery
from tests.faults.chaos.proxy import Proxy
from tests.faults.chaos.schedule import (
    CLASSES,
    CONCURRENCY,
    PRODUCERS,
    REPLICAS,
    WORKERS,
    Schedule,
)
from tests.faults.chaos.server import Server
from tests.faults.judge.history import Change, Loss, Retry, Usage

_RESTART_S = 0.15
_STOP_S = 15.0
_YOUNG_S = 8.0
# One that was just started holds nothing yet.
_WARM_S = 0.5


class World:
    """Everything that runs during one schedule."""

    def __init__(self, schedule: Schedule, server: Server, nursery: Nursery, home: Path) -> None:
        self.schedule = schedule
        self.server = server
        self.nursery = nursery
        self.home = home
        self.database = server.create()
        self.dsn = server.dsn(self.database)
        self.proxy = Proxy(server.socket_path, CLASSES)
        self.client = Client(self.dsn)
        self.changes: list[Change] = []
        self.retries: list[Retry] = []
        self.losses: list[Loss] = []
        self.usages: list[Usage] = []
        self.done: list[str] = []  # the faults that were really done
        # What is to be undone or done later.
        self.later: list[tuple[threading.Timer, Callable[[], None]]] = []
        self.stopped: set[int] = set()
        self._roles: dict[int, str] = {}
        self._restart_at: dict[str, float] = {}
        self._held: dict[int, tuple[int, int]] = {}
        self._born: dict[int, float] = {}
        self._control: Connection[Any] | None = None
        self._closing = False

    # Connections --------------------------------------------------------------------------------

    def through(self, kind: str) -> str:
        """Return the DSN of a class of connections, through the proxy."""
        return (
            f"postgresql://postgres@127.0.0.1:{self.proxy.ports[kind]}/{self.database}"
            "?sslmode=disable&gssencmode=disable"
        )

    def control(self) -> Connection[Any]:
        """Return a connection straight to the server."""
        if self._control is None or self._control.closed:
            self._control = psycopg.connect(
                self.dsn, autocommit=True, connect_timeout=5, application_name="chaos control"
            )
        return self._control

    def rows(self, query: str, *params: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.control().execute(query.encode(), params).fetchall()

    # Processes ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Configure the orgs and start everything."""
        self.control().execute("create table effect (name text primary key)")
        self.control().execute(
            "update orchestrator.queue set cost_mode = %s", [self.schedule.cost_mode]
        )
        for org in self.schedule.orgs:
            self.set_cap(org.name, org.burst_max, weight=org.weight)
        for number in range(REPLICAS):
            self._start(f"replica {number}")
        for number in range(WORKERS):
            self._start(f"worker {number}")
        deadline = time.monotonic() + _STOP_S
        while self.leader() is None and time.monotonic() < deadline:
            self.supervise()
            time.sleep(0.01)
        self.begun_at = time.time() + 0.1
        for number in range(PRODUCERS):
            calls = [
                {"at_s": call.at_s, "how": call.how, "tasks": call.tasks}
                for call in self.schedule.calls[number]
            ]
            plan = self.home / f"plan-{number}"
            plan.write_text(json.dumps(calls))
            self._start(f"producer {number}")

    def _start(self, role: str) -> None:
        kind, number = role.split()
        if kind == "producer":
            arguments = [
                "producer",
                self.through("producer"),
                str(self.home / f"plan-{number}"),
                str(self.home / f"produced-{number}"),
                str(self.begun_at),
            ]
            env: dict[str, str] = {}
        elif kind == "replica":
            arguments, env = ["run"], {"DATABASE_URL": self.through("leader")}
        else:
            arguments = [
                "worker",
                "tests.faults.chaos.handlers:app",
                f"--concurrency={CONCURRENCY}",
            ]
            env = {
                "DATABASE_URL": self.through("worker"),
                "CHAOS_JOURNAL": str(self.home / "handled"),
            }
        settings = {} if kind == "producer" else dict(self.schedule.settings)
        settings |= {"ORCHESTRATOR_LOG_FORMAT": "json"} if settings else {}
        log = self.home / f"log-{role.replace(' ', '-')}"
        pid = self.nursery.start(arguments, env=env | settings, log=log)
        self._roles[pid] = role
        self._born[pid] = time.monotonic()
        self._held.pop(pid, None)

    def pid_of(self, role: str) -> int | None:
        """Return the process that plays a role, None while there is none."""
        return next((pid for pid, played in self._roles.items() if played == role), None)

    def pids(self, kind: str) -> list[int]:
        """Return the processes of a kind."""
        return [pid for pid, role in self._roles.items() if role.startswith(kind)]

    def send(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a process that may be gone."""
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        if number is signal.SIGSTOP:
            self.stopped.add(pid)
        elif number is signal.SIGCONT:
            self.stopped.discard(pid)

    def supervise(self) -> None:
        """Start again what has ended, as any supervisor would."""
        now = time.monotonic()
        exits = self.nursery.look()
        for pid in [pid for pid in self._roles if pid in exits]:
            role = self._roles.pop(pid)
            self.stopped.discard(pid)
            journal.write(self.home / "ended", "ended", role=role, of=pid, code=exits.pop(pid))
            if not role.startswith("producer") and not self._closing:
                self._restart_at[role] = now + _RESTART_S
        for role in [role for role, at in self._restart_at.items() if at <= now]:
            del self._restart_at[role]
            self._start(role)

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something later, once or twice; whatever this thread waits for then."""
        # An operator's verb may wait for a lock until the network heals.
        timer = threading.Timer(seconds, act)
        timer.daemon = True
        self.later.append((timer, act))
        timer.start()

    def calm(self) -> None:
        """Undo every fault: let all go on, and start what is missing."""
        for timer, act in self.later:
            if timer.is_alive():
                timer.cancel()
                act()
        self.later = []
        self.proxy.clear()
        # Else an org that may hold one slot runs its backlog task by task.
        for org in self.schedule.orgs:
            insist(partial(self.set_cap, org.name, None))
        for pid in list(self.stopped):
            self.send(pid, signal.SIGCONT)

    def measure(self) -> None:
        """Note what the processes hold; the first look at each is when it is warm."""
        page = os.sysconf("SC_PAGE_SIZE")
        for pid, role in list(self._roles.items()):
            if time.monotonic() - self._born[pid] < _WARM_S:
                continue
            with suppress(OSError):
                descriptors = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - a count
                rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
                first = self._held.setdefault(pid, (descriptors, rss))
                self.usages.append(Usage(role, (first[0], descriptors), (first[1], rss)))

    def end(self) -> list[str]:
        """Ask all to stop; return which did not end as they should."""
        self._closing = True
        self._restart_at.clear()
        wrong = []
        for pid in list(self._roles):
            self.send(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        exits = self.nursery.look()
        while any(pid not in exits for pid in self._roles) and time.monotonic() < deadline:
            time.sleep(0.01)
            exits = self.nursery.look()
        for pid, role in self._roles.items():
            if pid not in exits:
                wrong.append(f"{role} did not end within {_STOP_S:g} s of SIGTERM")
                self.send(pid, signal.SIGKILL)
            elif (code := exits.pop(pid)) != 0 and not (
                # Asked so early that nobody was listening yet.
                code == -signal.SIGTERM and time.monotonic() - self._born[pid] < _YOUNG_S
            ):
                wrong.append(f"{role} ended with {code} after SIGTERM")
        self._roles.clear()
        return wrong

    def close(self) -> None:
        """Leave nothing behind."""
        for timer, _ in self.later:
            timer.cancel()
        for pid in self._roles:
            self.send(pid, signal.SIGKILL)
        self.client.close()
        self.proxy.close()
        if self._control is not None:
            self._control.close()
        self.server.drop(self.database)

    # What operators do --------------------------------------------------------------------------

    def set_cap(self, org: str, burst_max: int | None, **more: Any) -> None:
        """Change an org's cap, and note when it may and when it must be in force."""
        asked_at = time.time()
        done_at: float | None = None
        try:
            self.client.set_org(org, burst_max=burst_max, **more)
            done_at = time.time()
        finally:
            self.changes.append(Change(org, burst_max, asked_at, done_at))

    # Who leads ----------------------------------------------------------------------------------

    def leader(self) -> tuple[int, int, int] | None:
        """Return (process, backend, epoch) of the leader, None while nobody leads."""
        rows = self.rows(
            "select k.holder, k.backend_pid, k.epoch from orchestrator.orchestrator_lock k"
            " join pg_locks l on l.pid = k.backend_pid and l.locktype = 'advisory' and l.granted"
            " and l.objid = 1 where k.queue = 1"
        )
        if not rows or not rows[0][0] or ":" not in rows[0][0]:
            return None
        holder, backend, epoch = rows[0]
        pid = int(holder.split(":")[1])
        return (pid, backend, epoch) if pid in self._roles else None

    def lose(self, kind: str, epoch: int) -> None:
        """Note that a leader is lost from now on."""
        self.losses.append(Loss(time.time(), epoch, kind))


def insist(act: Callable[[], object]) -> None:
    """Do it, however often the server goes away."""
    for _ in range(200):
        try:
            act()
        except (psycopg.Error, OrchestratorError):
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the server does not come back")
