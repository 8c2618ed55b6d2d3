"""The worker's lines and slots, and when it looks for which kind of work: without a database."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model import Claim
from orchestrator.store.names import EXPRESS_SHIFT
from orchestrator.store.queue import Quota
from orchestrator.worker.app import App, Task
from orchestrator.worker.buffer import Buffer, Calls
from orchestrator.worker.job import Job
from orchestrator.worker.lane import Lanes
from orchestrator.worker.leases import Lease
from orchestrator.worker.source import (
    CLAIM_MAX,
    EXPRESS_GAP_MAX_S,
    EXPRESS_GAP_MIN_S,
    Source,
)

app = App()


@app.task("x")
async def handler(task: Task) -> None:
    pass


def claim(*, express: bool) -> Claim:
    key = 70 - EXPRESS_SHIFT if express else 70
    return Claim(
        7, "x", "{}", "a", "default", "api", 5, 1, 5, uuid4(), datetime.now(UTC), dispatch_key=key
    )


def job(*, express: bool) -> Job:
    known = claim(express=express)
    return Job(known, app.handlers["x"], Lease(known.claim_id, 1, 1, 0.0), time.monotonic())


class Driven:
    """A buffer whose slots a test fills and empties, and what has to hold after every step."""

    def __init__(self, slots: int, reserve: int) -> None:
        self.slots, self.reserve = slots, reserve
        self.rooms = 0
        self.buffer = Buffer(
            slots, Calls(lambda: None, lambda: None, self._has_room), reserve=reserve
        )
        self.running: list[Job] = []
        self.line: list[Job] = []
        # What `room` said 0 to, and for how much.
        self.waits: tuple[Lanes, Lanes] | None = None

    def _has_room(self) -> None:
        self.rooms += 1
        self.waits = None

    def count(self, *, express: bool) -> int:
        return sum(job.express is express for job in self.running)

    def put(self, express: bool, count: int) -> None:
        jobs = [job(express=express) for _ in range(count)]
        assert self.buffer.put(jobs)
        self.line += jobs

    def take(self) -> None:
        """Take the next task, as far as one may run; it has to be the right one."""
        self._started(self.buffer.swap_async(None))

    def finish(self, which: int) -> None:
        """End a running task, and take the next one with its slot."""
        if self.running:
            done = self.running.pop(which % len(self.running))
            self._started(self.buffer.swap_async(done))

    def room(self, main: int, express: int) -> None:
        """Ask for room; a lane that gets none is told once it has some."""
        ahead = Lanes(main, express)
        wanted = self.buffer.room(ahead)
        self.waits = (ahead, wanted) if not all(wanted) else None
        ordinary = sum(not job.express or not self.reserve for job in self.line)
        if wanted.main and not ahead.main:
            # Never more than could run at once, and never into the kept slots.
            assert wanted.main + ordinary <= self.slots - self.reserve
            assert wanted.main + len(self.line) + len(self.running) <= self.slots
        if wanted.express and not ahead.express and self.reserve:
            # What waits in the ordinary line and may run keeps its slots.
            theirs = min(ordinary, self.slots - self.reserve - self.count(express=False))
            express = sum(job.express for job in self.line)
            assert wanted.express + express + len(self.running) + theirs <= self.slots

    def _started(self, started: Job | None) -> None:
        best = self._best()
        assert started is best
        if started is not None:
            self.line.remove(started)
            self.running.append(started)

    def _best(self) -> Job | None:
        if len(self.running) == self.slots:
            return None
        if not self.reserve:
            return self.line[0] if self.line else None
        for waiting in self.line:
            if waiting.express:
                return waiting
        kept = self.count(express=False) >= self.slots - self.reserve
        return self.line[0] if self.line and not kept else None

    def check(self) -> None:
        if self.reserve:
            assert self.count(express=False) <= self.slots - self.reserve
        assert len(self.running) <= self.slots
        assert set(self.buffer.running()) == set(self.running)
        if self.waits is not None:
            ahead, wanted = self.waits
            now = self.buffer.room(ahead)
            # Whoever was sent away and never called is still to be sent away.
            assert now.main == 0 or wanted.main
            assert now.express == 0 or wanted.express


STEPS = st.one_of(
    st.tuples(st.just(Driven.put), st.booleans(), st.integers(1, 4)),
    st.tuples(st.just(Driven.take)),
    st.tuples(st.just(Driven.finish), st.integers(0, 9)),
    st.tuples(st.just(Driven.room), st.integers(0, 6), st.integers(0, 6)),
)


@given(st.integers(1, 6), st.integers(0, 5), st.lists(STEPS, min_size=20, max_size=50))
def test_ordinary_tasks_never_take_kept_slots_and_express_tasks_go_first(
    slots: int, reserve: int, steps: list[tuple[Callable[..., None], object]]
) -> None:
    driven = Driven(slots, min(reserve, slots - 1))
    for step, *args in steps:
        step(driven, *args)
        driven.check()


def test_a_change_of_the_reserve_makes_room() -> None:
    driven = Driven(2, 1)
    driven.put(False, 1)
    driven.take()
    driven.room(0, 0)
    assert driven.rooms == 0
    driven.buffer.keep(0)
    assert driven.rooms == 1
    assert driven.buffer.room(Lanes(0, 0)) == (1, 1)


# When to look -----------------------------------------------------------------------------------

LONGEST_S = 1_000.0
BOTH = Lanes(9, 10)
EXPRESS_ONLY = Lanes(0, 1)


def a_source() -> Source:
    return Source(1, "default", lease_s=30, worker="test")


def answer(source: Source, quota: Quota, *claims: Claim) -> None:
    source.gave(quota, claims, longest_s=LONGEST_S, heard=True, suspects=False)


def test_one_claim_asks_for_both_kinds() -> None:
    assert a_source().quota(BOTH) == Quota(10, 9, 10)
    assert a_source().quota(EXPRESS_ONLY) == Quota(1, 0, 1)
    assert a_source().quota(Lanes(5_000, 3)) == Quota(CLAIM_MAX, CLAIM_MAX, 3)
    assert a_source().quota(Lanes(0, 0)) is None


def test_an_empty_queue_is_left_alone_for_both_kinds_until_the_same_moment() -> None:
    source = a_source()
    answer(source, Quota(10, 9, 10))
    for room in (BOTH, EXPRESS_ONLY, Lanes(1, 0)):
        assert source.quota(room) is None
        assert source.look_at(room) == source.look_at(BOTH) > time.monotonic() + LONGEST_S / 2


def test_finding_no_express_work_says_nothing_of_ordinary_work() -> None:
    source = a_source()
    answer(source, Quota(1, 0, 1))
    assert source.quota(EXPRESS_ONLY) is None
    assert source.quota(BOTH) == Quota(10, 9, 10)


@pytest.mark.parametrize("express", [0, 1, 10])
def test_a_claim_that_was_filled_is_followed_by_another(express: int) -> None:
    source = a_source()
    claims = [claim(express=n < express) for n in range(10)]
    answer(source, Quota(10, 10, 10), *claims)
    assert source.quota(BOTH) == Quota(10, 9, 10)


def test_a_notification_is_followed_up_at_once() -> None:
    source = a_source()
    answer(source, Quota(10, 9, 10))
    source.look_again()
    assert source.quota(BOTH) == Quota(10, 9, 10)
    assert source.quota(EXPRESS_ONLY) == Quota(1, 0, 1)


def test_notifications_of_other_work_make_few_looks_for_express_work() -> None:
    source = a_source()
    gaps = []
    for _ in range(8):
        answer(source, Quota(1, 0, 1))
        source.look_again()
        gaps.append(source.look_at(EXPRESS_ONLY) - time.monotonic())
    assert 0 < gaps[0] <= EXPRESS_GAP_MIN_S
    assert EXPRESS_GAP_MAX_S / 2 < gaps[-1] <= EXPRESS_GAP_MAX_S
    # A find is followed by a first gap again.
    answer(source, Quota(1, 0, 1), claim(express=True))
    answer(source, Quota(1, 0, 1))
    source.look_again()
    assert source.look_at(EXPRESS_ONLY) - time.monotonic() <= EXPRESS_GAP_MIN_S
