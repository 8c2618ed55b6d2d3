"""Queues on one server that work in turns, each with a replica of its own: their ticks compared.

A queue here holds a hundred slots. A round claims a hundred tasks and ends them in one statement;
until then the leader can admit nothing, so that the next tick settles a hundred and admits a
hundred, whatever the timing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
from psycopg import Connection

from benchmarks.stage import Stage, wait_for
from orchestrator.fairness.measures import percentile
from orchestrator.model import AttemptStatus, Claim
from orchestrator.store import leadership, orgs, queue
from orchestrator.store.leadership import Leadership
from orchestrator.store.names import ready_channel, worker_application
from orchestrator.store.queue import Ending
from orchestrator.store.sql import run as drive
from orchestrator.store.sql import session_options

ADMISSIONS = 100
_LEASE_S = 600.0
# For a hundred admissions; of a first tick over a hundred thousand new orgs they take seconds.
_PATIENCE_S = 60.0
# A notification may be lost with its leader: then look again after this long.
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Lane:
    """A queue and the one session that works for it, announced as a worker for a hundred tasks."""

    name: str
    queue: int
    session: Connection[Any]

    def work_off(self) -> None:
        """Claim a hundred tasks, and end them together."""
        deadline = time.monotonic() + _PATIENCE_S
        claims: list[Claim] = []
        while len(claims) < ADMISSIONS:
            claims += self._claim(ADMISSIONS - len(claims))
            if len(claims) < ADMISSIONS:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no hundred admissions in {_PATIENCE_S:.0f} s")
                for _ in self.session.notifies(timeout=_LOOK_S, stop_after=1):
                    pass
        endings = [
            Ending(claim.dispatch_key, claim.claim_id, AttemptStatus.SUCCEEDED, cost_us=10_000)
            for claim in claims
        ]
        drive(self.session, queue.finish(self.queue, endings, worker="benchmark"))

    def _claim(self, limit: int) -> list[Claim]:
        claiming = queue.claim(
            self.queue, self.name, uuid4(), limit=limit, lease_s=_LEASE_S, worker="benchmark"
        )
        found: list[Claim] = drive(self.session, claiming)
        return found


class Turn(NamedTuple):
    """One queue's rounds: the microseconds of their ticks, ascending, and how long they took."""

    ticks_us: Sequence[float]
    rounds: int
    seconds: float

    def tick_us(self, part: float) -> float:
        """Return the time of a tick at this part of the ranking."""
        return percentile(list(self.ticks_us), part)

    @property
    def admissions_per_s(self) -> float:
        """Return how many tasks a second went through admission, claim and end."""
        return self.rounds * ADMISSIONS / self.seconds


@contextmanager
def lane(on: Stage, name: str) -> Iterator[Lane]:
    """Create a queue with a hundred slots, and yield it with its session."""
    with on.connection.transaction():
        bounded = orgs.set_queue(name, ready_max=ADMISSIONS, capacity=ADMISSIONS, actor="benchmark")
        drive(on.connection, bounded)
    row = on.connection.execute(
        "select id from orchestrator.queue where name = %s", [name]
    ).fetchone()
    assert row is not None
    queue_id = int(row[0])
    with psycopg.connect(
        on.dsn,
        autocommit=True,
        prepare_threshold=1,
        application_name=worker_application(queue_id, ADMISSIONS),
        options=session_options(),
    ) as session:
        session.execute(f"listen {ready_channel(queue_id)}".encode())
        yield Lane(name, queue_id, session)


def start_leader(on: Stage, name: str) -> None:
    """Start a replica for one queue, and wait until it leads."""
    on.processes.start("run", "--queue", name)

    def leads() -> bool:
        found: list[Leadership] = drive(on.connection, leadership.leaders())
        return any(leader.alive for leader in found if leader.name == name)

    wait_for(leads, "a leader")


def take_turns(lanes: Sequence[Lane], rounds: int) -> dict[str, Turn]:
    """Let each queue work so many rounds, one queue after the other."""
    return {each.name: _turn(each, rounds) for each in lanes}


def _turn(on: Lane, rounds: int) -> Turn:
    seen = _last_admission(on)
    began = time.perf_counter()
    for _ in range(rounds):
        on.work_off()
    seconds = time.perf_counter() - began
    return Turn(_ticks_us(on, seen), rounds, seconds)


def _last_admission(on: Lane) -> int:
    row = on.session.execute(
        "select coalesce(max(admit_seq), 0) from orchestrator.tick_log where queue = %s", [on.queue]
    ).fetchone()
    assert row is not None
    return int(row[0])


def _ticks_us(on: Lane, after: int) -> list[float]:
    rows = on.session.execute(
        "select tick_us from orchestrator.tick_log where queue = %s and admit_seq > %s"
        "   and admitted = %s and settled = %s",
        [on.queue, after, ADMISSIONS, ADMISSIONS],
    ).fetchall()
    return sorted(float(tick_us) for (tick_us,) in rows)
