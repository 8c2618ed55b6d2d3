"""E10: every leader is killed 200 ms after its first admission; shares, losses, caps.

Real replicas on a private PostgreSQL, each in a process of its own and ended with SIGKILL. Three
orgs with weights 5:3:2 and tasks of 50 ms, 100 ms and 200 ms have work all the time; a fourth one
is capped. An undisturbed run of the same length is what the shares are compared with.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psycopg

from benchmarks.estimates import Bar, Estimate, Key, estimate, exact
from benchmarks.fairness.replicas import Replicas, replicas
from benchmarks.fairness.slots import Slots
from benchmarks.stage import QUEUE, Stage, stage, wait_for
from orchestrator.model import TaskSpec
from orchestrator.store import leadership, orgs, report
from orchestrator.store.leadership import Leadership
from orchestrator.store.report import Verdict
from orchestrator.store.sql import run as drive

TERMS = 100
QUICK_TERMS = 10
WEIGHTS = {"five": 5, "three": 3, "two": 2}
DURATIONS_US = {"five": 50_000, "three": 100_000, "two": 200_000}
CAPPED, CAP = "capped", 2
SLOTS = 16
READY = 16
KILLED = "leaders killed"
UNDISTURBED = "undisturbed"
OFF = "furthest share from undisturbed, points"
RULE = "weighted"
TITLE = "Every leader is killed 200 ms after its first admission"
SETTING = (
    "Replicas with the default settings on a private PostgreSQL, ended with SIGKILL; 16 slots,"
    " tasks of 50, 100 and 200 ms on average for the weights 5, 3 and 2, and an org with a cap of"
    " 2; the undisturbed run is as long; shares are of the worker time of the first three;"
    " intervals over ten blocks of time, those of takeovers over takeovers"
)
_REPLICAS = 3
_KILL_AFTER_S = 0.2
_SAMPLE_S = 0.01
# Parts of a run whose shares are compared: enough for an interval, long enough for a share.
_BLOCKS = 10
# More than 16 slots can do in a term of two seconds each.
_WORK_S_PER_TERM = 32.0
_TERM_PATIENCE_S = 30.0


class Played(NamedTuple):
    """One run: its terms, its length, the worker-seconds of each block, and what went wrong."""

    terms: int
    length_s: float
    blocks: list[dict[str, float]]
    lost: int
    duplicated: int
    over_cap: int
    slots_used: float
    takeover_s: list[float]

    @property
    def parts(self) -> list[dict[str, float]]:
        """Return the shares in percent of each block in which anything was started."""
        totals = [(block, sum(block[org] for org in WEIGHTS)) for block in self.blocks]
        return [
            {org: 100 * block[org] / total for org in WEIGHTS} for block, total in totals if total
        ]

    @property
    def shares(self) -> dict[str, float]:
        """Return the share of each of the three orgs in percent, over the whole run."""
        obtained = {org: sum(block[org] for block in self.blocks) for org in WEIGHTS}
        return {org: 100 * s / sum(obtained.values()) for org, s in obtained.items()}


class Sampler(threading.Thread):
    """Looks at what the capped org holds, in one snapshot each time."""

    def __init__(self, dsn: str) -> None:
        super().__init__(name="sampler", daemon=True)
        self._dsn = dsn
        self._stopping = threading.Event()
        self.over_cap = 0
        self.looks = 0

    def run(self) -> None:
        """Look until `stop`."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stopping.wait(_SAMPLE_S):
                held: dict[str, int] = drive(connection, report.in_flight(QUEUE))
                self.over_cap = max(self.over_cap, held.get(CAPPED, 0) - CAP)
                self.looks += 1

    def stop(self) -> None:
        """Stop looking."""
        self._stopping.set()
        self.join()


def measure(quick: bool) -> tuple[dict[Key, Estimate], list[Bar]]:
    """Return the measures of both runs and the bars."""
    terms = QUICK_TERMS if quick else TERMS
    killed = _play(terms)
    calm = _play(terms, length_s=killed.length_s)
    return _measures(killed, calm), _bars(killed, calm)


# One run -----------------------------------------------------------------------------------------


def _play(terms: int, *, length_s: float | None = None) -> Played:
    """Run `terms` terms that end by SIGKILL; with `length_s`, one that nobody disturbs."""
    with stage() as on:
        _configure(on)
        _stage_work(on, terms)
        with replicas(on.dsn, _REPLICAS) as replacing, _working(on) as sampler:
            began = time.monotonic()
            takeovers = [] if length_s is not None else _kill_leaders(on, replacing, terms)
            if length_s is not None:
                _await_admission(on, 0)
                time.sleep(max(0.0, length_s - (time.monotonic() - began)))
            length = time.monotonic() - began
        return _judged(on, sampler, 1 if length_s is not None else terms, length, takeovers)


def _configure(on: Stage) -> None:
    with on.connection.transaction():
        drive(on.connection, orgs.set_queue("default", ready_max=READY, actor="benchmark"))
        for org, weight in WEIGHTS.items():
            drive(on.connection, orgs.set_org(org, weight=weight, actor="benchmark"))
        drive(on.connection, orgs.set_org(CAPPED, weight=1, burst_max=CAP, actor="benchmark"))


def _stage_work(on: Stage, terms: int) -> None:
    """Stage more of each org than can be done in the time."""
    dice = random.Random(1)
    total = sum(WEIGHTS.values())
    for org, weight in WEIGHTS.items():
        work_us = terms * _WORK_S_PER_TERM * 1e6 * weight / total
        on.client.enqueue_many(_tasks(dice, org, DURATIONS_US[org], work_us))
    on.client.enqueue_many(_tasks(dice, CAPPED, 100_000, terms * CAP * 2e6))


def _tasks(dice: random.Random, org: str, duration_us: int, work_us: float) -> list[TaskSpec]:
    return [
        TaskSpec(name="held", org=org, payload={"duration_us": dice.randint(lowest, highest)})
        for lowest, highest in [(duration_us // 2, duration_us * 3 // 2)]
        for _ in range(int(work_us / duration_us))
    ]


@contextmanager
def _working(on: Stage) -> Iterator[Sampler]:
    """Keep the slots busy and the cap watched meanwhile."""
    slots, sampler = Slots(on.dsn, SLOTS), Sampler(on.dsn)
    slots.start()
    sampler.start()
    try:
        yield sampler
    finally:
        slots.stop()
        sampler.stop()
    if slots.error is not None:
        raise slots.error


def _kill_leaders(on: Stage, replacing: Replicas, terms: int) -> list[float]:
    """Kill each leader 200 ms after its first admission; return the seconds until the next one."""
    epoch, takeovers, killed_at = 0, [], 0.0
    for _ in range(terms):
        admitted_at = _await_admission(on, epoch)
        if killed_at:
            takeovers.append(admitted_at - killed_at)
        leader: Leadership = drive(on.connection, leadership.leaders())[0]
        left_s = admitted_at + _KILL_AFTER_S - drive(on.connection, report.clock())
        time.sleep(max(0.0, left_s))
        killed_at = drive(on.connection, report.clock())
        replacing.replace(int(leader.holder.split(":")[1]))
        epoch = leader.epoch
    return takeovers


def _await_admission(on: Stage, epoch: int) -> float:
    """Return when a term after `epoch` first admitted, once it has."""
    found: list[float] = []

    def admitted() -> bool:
        at = drive(on.connection, report.first_tick_after(QUEUE, epoch))
        found[:] = [at] if at is not None else []
        return bool(found)

    wait_for(admitted, "an admission", _TERM_PATIENCE_S)
    return found[0]


# What came of it ---------------------------------------------------------------------------------


def _judged(
    on: Stage, sampler: Sampler, terms: int, length_s: float, takeovers: list[float]
) -> Played:
    verdict: Verdict = drive(on.connection, report.verdict(QUEUE))
    attempts = on.connection.execute(
        "select org_id, extract(epoch from claimed_at)::float8, cost_us::float8 / 1e6"
        "  from orchestrator.task_attempt where claimed_at is not null"
    ).fetchall()
    first = min(at for _, at, _ in attempts)
    length = max(at for _, at, _ in attempts) - first
    blocks = [dict.fromkeys([*WEIGHTS, CAPPED], 0.0) for _ in range(_BLOCKS)]
    for org, at, cost_s in attempts:
        blocks[min(_BLOCKS - 1, int((at - first) / length * _BLOCKS))][org] += cost_s
    used = sum(cost_s for _, _, cost_s in attempts) / (length * SLOTS)
    overlap = _most_at_once([(at, at + cost) for org, at, cost in attempts if org == CAPPED])
    over = max(0, sampler.over_cap, overlap - CAP)
    return Played(terms, length_s, blocks, verdict.lost, verdict.duplicated, over, used, takeovers)


def _most_at_once(intervals: list[tuple[float, float]]) -> int:
    """Return how many of the intervals overlap at most; an end comes before a start."""
    events = sorted([(end, -1) for _, end in intervals] + [(start, 1) for start, _ in intervals])
    held = most = 0
    for _, change in events:
        held += change
        most = max(most, held)
    return most


def _off(killed: Played, calm: Played) -> Estimate:
    """Return how far the share furthest off is from the undisturbed one, with its interval.

    The interval is over blocks of the disturbed run, drawn again with replacement as whole blocks.
    """
    due = calm.shares
    furthest = max(WEIGHTS, key=lambda org: abs(killed.shares[org] - due[org]))
    differences = [part[furthest] - due[furthest] for part in killed.parts]
    spread = estimate(differences)
    middle = abs(killed.shares[furthest] - due[furthest])
    reach = (spread.high - spread.low) / 2
    return Estimate(len(differences), middle, max(0.0, middle - reach), middle + reach, middle)


def _measures(killed: Played, calm: Played) -> dict[Key, Estimate]:
    measures: dict[Key, Estimate] = {}
    for case, played in ((KILLED, killed), (UNDISTURBED, calm)):
        for org in WEIGHTS:
            shares = [part[org] for part in played.parts]
            measures[Key(case, RULE, f"share of {org}, %")] = estimate(shares)
        for metric, value in (
            ("terms", played.terms),
            ("seconds", played.length_s),
            ("slots in use, %", 100 * played.slots_used),
            ("tasks lost", played.lost),
            ("tasks ended twice", played.duplicated),
            ("most over the cap", played.over_cap),
        ):
            measures[Key(case, RULE, metric)] = exact(value)
    if killed.takeover_s:
        measures[Key(KILLED, RULE, "kill to next admission, s")] = estimate(killed.takeover_s)
    return measures


def _bars(killed: Played, calm: Played) -> list[Bar]:
    over = max(killed.over_cap, calm.over_cap)
    return [
        Bar(f"{killed.terms} leaders killed: {OFF}", _off(killed, calm), 2.0),
        Bar(f"{killed.terms} leaders killed: tasks lost", exact(killed.lost), 0.0),
        Bar(f"{killed.terms} leaders killed: tasks over a cap", exact(over), 0.0),
    ]
