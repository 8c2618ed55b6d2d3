"""One schedule from its beginning to the judge's verdict."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.faults.chaos import journal
from tests.faults.chaos.nursery import Nursery
from tests.faults.chaos.schedule import LOAD_S, Schedule, draw
from tests.faults.chaos.server import Server
from tests.faults.chaos.strikes import strike
from tests.faults.chaos.watch import Watch
from tests.faults.chaos.world import World
from tests.faults.judge import reading
from tests.faults.judge.history import Answer, Ask, History, Start
from tests.faults.judge.rules import judge

_POLL_S = 0.01
# So long without any attempt that ends, while something is left to do, is a standstill. A run
# is given up only after far longer: a busy machine is slow, which is no fault.
_STANDSTILL_S = 20.0
_DRAIN_S = 300.0


@dataclass
class Outcome:
    """What came of one schedule."""

    seed: int
    violations: list[str]
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    home: Path | None = None  # kept where something is wrong


class Stage:
    """What runs share: the server and the nursery."""

    def __init__(self, server: Server, nursery: Nursery) -> None:
        self.server, self.nursery = server, nursery

    def play(self, seed: int) -> Outcome:
        """Run the schedule of `seed` and judge it."""
        schedule = draw(seed)
        home = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
        begun = time.monotonic()
        world = World(schedule, self.server, self.nursery, home)
        try:
            with Watch(world.dsn) as watch:
                world.begin()
                _act(world, schedule)
                drained, drain_s = _drain(world)
                world.measure()
                wrong = world.end()
                left = _sessions_left(world)
            history = _gather(world, schedule, watch, drained, drain_s, left)
            violations = judge(history) + [f"exit: {each}" for each in wrong]
            outcome = Outcome(seed, violations, _count(world, history), Counter(world.done))
        finally:
            world.close()
        outcome.seconds = time.monotonic() - begun
        if outcome.violations:
            outcome.home = home
            (home / "schedule").write_text(f"{schedule}\n")
            (home / "violations").write_text("\n".join(outcome.violations))
            (home / "history").write_text("\n".join(map(repr, _parts(history))))
        else:
            shutil.rmtree(home)
        return outcome


@contextmanager
def stage() -> Iterator[Stage]:
    """Yield a `Stage`; nothing of it is left afterwards."""
    nursery = Nursery()
    try:
        with Server() as server:
            server.make_template()
            yield Stage(server, nursery)
    finally:
        nursery.close()


def _act(world: World, schedule: Schedule) -> None:
    """Let the load and the faults happen."""
    ends_at = world.begun_at + LOAD_S
    faults = list(schedule.faults)
    measured = False
    while time.time() < ends_at or faults:
        world.supervise()
        if faults and time.time() >= world.begun_at + faults[0].at_s:
            fault = faults.pop(0)
            strike(world, fault)
        if not measured and time.time() > world.begun_at + 0.6:
            world.measure()
            measured = True
        time.sleep(_POLL_S)


def _drain(world: World) -> tuple[bool, float]:
    """Repair everything, and wait until nothing is left to do; return whether, and how long."""
    world.calm()
    begun = time.monotonic()
    left, ended, ended_at = True, -1, begun
    while time.monotonic() < min(begun + _DRAIN_S, ended_at + _STANDSTILL_S):
        world.supervise()
        with suppress(psycopg.OperationalError):
            ((left, now),) = world.rows(
                "select exists (select from orchestrator.staging_queue) or exists (select from"
                " orchestrator.scheduled_queue) or exists (select from orchestrator.task_queue),"
                " (select count(*)::int from orchestrator.task_attempt)"
            )
            if now != ended:
                ended, ended_at = now, time.monotonic()
        if not left and not world.pids("producer"):
            break
        time.sleep(_POLL_S)
    return not left, time.monotonic() - begun


def _sessions_left(world: World) -> int:
    """Return how many sessions outlived the processes, a moment after these ended."""
    deadline = time.monotonic() + 3
    while True:
        ((count,),) = world.rows(
            "select count(*)::int from pg_stat_activity where datname = current_database()"
            " and application_name like 'orchestrator%%' and application_name not like '%%client'"
        )
        if not count or time.monotonic() > deadline:
            return int(count)
        time.sleep(0.02)


def _gather(
    world: World, schedule: Schedule, watch: Watch, drained: bool, drain_s: float, left: int
) -> History:
    asks, answers = [], []
    for path in sorted(world.home.glob("produced-*")):
        for line in journal.read(path):
            if line["event"] == "finished":
                continue
            tokens = [(token, org) for token, org in line["tokens"]]
            if line["event"] == "ask":
                asks.append(Ask(path.name, line["call"], line["at"], tokens, line["effect"]))
            else:
                ids = [(task, new) for task, new in line.get("answers", ())]
                given = (path.name, line["call"], line["at"], line["event"], tokens, ids)
                answers.append(Answer(*given))
    starts = [
        Start(*(line[name] for name in Start._fields))
        for line in journal.read(world.home / "handled")
        if line["event"] == "start"
    ]
    with world.server.connect(world.database) as connection:
        return History(
            asks=asks,
            answers=answers,
            starts=starts,
            changes=world.changes,
            retries=world.retries,
            tasks=reading.tasks(connection),
            attempts=reading.attempts(connection),
            places=reading.places(connection),
            ticks=reading.ticks(connection),
            terms=reading.terms(connection),
            effects=reading.effects(connection),
            samples=watch.samples,
            losses=world.losses,
            usages=_last(world),
            fair_by_count=schedule.cost_mode == "count",
            drained=drained,
            drain_s=drain_s,
            sessions_left=left,
            repairs=reading.repairs(connection),
        )


def _last(world: World) -> list[Any]:
    return list({usage.name: usage for usage in world.usages}.values())


def _count(world: World, history: History) -> Counter[str]:
    """Count what was looked at, and which paths were really hit."""
    counts = Counter(
        tasks=len(history.tasks),
        attempts=len(history.attempts),
        ticks=len(history.ticks),
        terms=len(history.terms),
        samples=len(history.samples),
        losses=len(history.losses),
    )
    for attempt in history.attempts:
        if attempt.status in ("lost", "dead", "released", "cancelled"):
            counts[attempt.status] += 1
    for answer in history.answers:
        counts[answer.outcome] += 1
    for _, kind in world.proxy.lost_replies:
        counts[f"lost reply {kind}"] += 1
    for path in world.home.glob("produced-*"):
        counts["resolved"] += sum(bool(line.get("resolved")) for line in journal.read(path))
    for line in _logs(world.home):
        event, reason = line.get("event"), str(line.get("reason", ""))
        if event == "leader.lost":
            counts["stale by fence" if "is over" in reason else "stale by session"] += 1
        elif event in (
            "leader.repaired",
            "leader.silent",
            "watchdog.stalled",
            "ack.gone",
            "claim.released",
        ):
            counts[event] += 1
    return counts


def _logs(home: Path) -> Iterator[dict[str, Any]]:
    for path in home.glob("log-*"):
        for text in path.read_text(errors="replace").splitlines():
            if text.startswith("{"):
                with suppress(json.JSONDecodeError):
                    yield json.loads(text)


def _parts(history: History) -> Iterator[object]:
    for name in History.__dataclass_fields__:
        value = getattr(history, name)
        if isinstance(value, list):
            yield from value
        else:
            yield name, value
