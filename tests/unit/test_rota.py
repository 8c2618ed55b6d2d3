"""Whom a tick wakes: as many as there is work for, in turn, and everybody in the end."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.leader.rota import FRESH_S, NAMED_MAX, PATIENCE_S, SOON_S, TASK_S, Rota
from orchestrator.store.admission import Parked
from orchestrator.wakeup.summons import summoned, summons

SHORT_US = 100
LONG_US = int(SOON_S * 1e6)
# What a worker with slots enough is given.
SHARE = int(SOON_S / TASK_S)
# A moment after which nobody who was called is expected to come any more.
LATER_S = 1.01 * PATIENCE_S

crews = st.lists(
    st.builds(Parked, st.integers(1, 2**22), st.integers(0, 500)),
    min_size=1,
    max_size=80,
    unique_by=lambda parked: parked.pid,
)
costs = st.integers(1, LONG_US - 1)


def crew(size: int, concurrency: int = 10) -> list[Parked]:
    return [Parked(100 + number, concurrency) for number in range(size)]


def rota(parked: list[Parked], now: float = 0.0) -> Rota:
    """Return the rota of a term that has looked once and found nothing ready."""
    made = Rota()
    made.learn(parked, now)
    made.observe(0, 0, now)
    return made


def test_one_task_is_for_one_worker() -> None:
    assert len(rota(crew(64)).call(1, SHORT_US, 0.0)) == 1


def test_there_are_as_many_as_work_it_off_soon() -> None:
    assert len(rota(crew(64)).call(SHARE, 1, 0.0)) == 1
    assert len(rota(crew(64)).call(SHARE + 1, 1, 0.0)) == 2
    # Ten slots, five milliseconds each: twenty tasks a worker.
    assert len(rota(crew(64)).call(100, 5_000, 0.0)) == 5
    assert len(rota(crew(64, concurrency=1)).call(100, 5_000, 0.0)) == 50


def test_what_stood_ready_before_counts_too() -> None:
    called = rota(crew(64))
    called.observe(2 * SHARE, 1, 0.0)
    assert len(called.call(SHARE, 1, 0.0)) == 3


@given(crews, st.integers(1, 5_000), costs)
def test_nobody_is_never_meant(parked: list[Parked], tasks: int, cost_us: int) -> None:
    called = rota(parked)
    named = called.call(tasks, cost_us, 0.0)
    # Either everybody, or some that listen, each once, who can do it.
    assert set(named) <= {worker.pid for worker in parked}
    assert len(set(named)) == len(named) < len(parked)
    assert called.standing == bool(named)
    payload = summons(named)
    assert len(payload) < 8_000
    heard = [worker.pid for worker in parked if summoned(payload, worker.pid)]
    assert sorted(heard) == sorted(named or [worker.pid for worker in parked])


@given(st.integers(2, 60), st.integers(1, 200))
def test_all_take_their_turn(size: int, calls: int) -> None:
    called, parked = rota(crew(size)), crew(size)
    turns = Counter(pid for _ in range(calls) for pid in take_one(called))
    times = [turns[worker.pid] for worker in parked]
    assert max(times) - min(times) <= 1


def take_one(called: Rota) -> list[int]:
    named = called.call(1, SHORT_US, 0.0)
    called.observe(0, 1, 0.0)
    return list(named)


def test_the_turn_goes_on_where_others_come_and_go() -> None:
    called = rota(crew(4))
    assert called.call(1, SHORT_US, 0.0) == [100]
    called.learn([Parked(pid, 10) for pid in (90, 100, 102, 103)], 0.0)
    called.observe(0, 1, 0.0)
    assert [take_one(called) for _ in range(4)] == [[102], [103], [90], [100]]


@pytest.mark.parametrize("cost_us", [0, LONG_US, 10 * LONG_US])
def test_all_are_called_where_tasks_are_long_or_unknown(cost_us: int) -> None:
    called = rota(crew(64))
    assert called.call(1, cost_us, 0.0) == []
    assert not called.standing


def test_all_are_called_while_it_is_not_known_who_listens() -> None:
    called = Rota()
    assert called.call(1, SHORT_US, 0.0) == []
    called.learn(crew(64), 0.0)
    assert called.call(1, SHORT_US, FRESH_S)
    assert called.call(1, SHORT_US, 1.01 * FRESH_S) == []


def test_all_are_called_where_there_would_be_too_many_names() -> None:
    called = rota(crew(2 * NAMED_MAX, concurrency=1))
    assert len(called.call(NAMED_MAX, LONG_US - 1, 0.0)) == NAMED_MAX
    called.observe(0, NAMED_MAX, 0.0)
    assert called.call(NAMED_MAX + 1, LONG_US - 1, 0.0) == []


def test_one_who_is_alone_is_everybody() -> None:
    called = rota(crew(1))
    assert called.call(1, SHORT_US, 0.0) == []
    assert not called.standing


@given(crews, st.integers(1, 5_000), costs)
def test_what_nobody_takes_is_told_to_twice_as_many_until_all_know(
    parked: list[Parked], tasks: int, cost_us: int
) -> None:
    called = rota(parked)
    named, now = called.call(tasks, cost_us, 0.0), 0.0
    calls = 1
    while named:
        assert called.standing
        called.observe(tasks, 0, now)
        assert called.call_again(cost_us, now) is None
        now += LATER_S
        called.observe(tasks, 0, now)
        again = called.call_again(cost_us, now)
        assert again is not None
        # Not fewer than twice as many where all are alike; every call is for others in turn.
        if len({worker.concurrency for worker in parked}) == 1:
            assert not again or len(again) == 2 * len(named)
        named = again
        calls += 1
    # One, two, four …: a hundred are reached in seven calls, each a few milliseconds after the
    # one before.
    assert calls <= len(parked).bit_length() + 1
    # All know: there is nothing more to be told.
    called.observe(tasks, 0, now + 10 * LATER_S)
    assert called.call_again(cost_us, now + 10 * LATER_S) is None
    assert not called.standing


def test_while_somebody_claims_nobody_else_is_woken() -> None:
    called, now = rota(crew(64)), 0.0
    assert called.call(500, SHORT_US, now)
    for left in range(499, 0, -1):
        now += LATER_S
        called.observe(left, 1, now)
        assert called.call_again(SHORT_US, now) is None
        assert called.standing
    called.observe(0, 1, now)
    assert not called.standing


def test_admissions_do_not_put_off_what_nobody_takes() -> None:
    called, now, named = rota(crew(64)), 0.0, [0]
    ready = 0
    while named:
        called.observe(ready, 0, now)
        named = list(called.call_again(SHORT_US, now) or called.call(1, SHORT_US, now))
        ready += 1
        now += PATIENCE_S / 4
    assert now < 0.2


def test_tasks_that_turn_out_to_take_longer_are_for_more() -> None:
    called = rota(crew(64))
    assert len(called.call(SHARE, SHORT_US // 10, 0.0)) == 1
    called.observe(SHARE - 10, 10, 0.001)
    again = called.call_again(5_000, 0.001)
    assert again is not None
    assert len(again) == 10
    called.observe(SHARE - 20, 10, 0.002)
    assert called.call_again(5_000, 0.002) is None
    assert called.call_again(LONG_US, 0.002) == []


def test_a_call_that_nobody_heeded_makes_the_next_ones_wider_for_a_while() -> None:
    called = rota(crew(64))
    called.call(1, SHORT_US, 0.0)
    called.observe(1, 0, LATER_S)
    again = called.call_again(SHORT_US, LATER_S)
    assert again is not None
    assert len(again) == 2
    called.observe(0, 1, LATER_S)
    assert len(called.call(1, SHORT_US, LATER_S)) == 2
    called.learn(crew(64), 1.0)
    called.observe(0, 1, 1.0)
    assert len(called.call(1, SHORT_US, 1.0)) == 1


def test_a_new_term_calls_for_what_stands_ready() -> None:
    called = Rota()
    called.observe(5, 0, 0.0)
    assert called.call_again(0, 0.0) == []
    assert not called.standing


@pytest.mark.parametrize("payload", ["", "x", "7,", "new: 7", "8,9,x"])
def test_a_payload_that_is_not_a_list_of_backends_is_for_everybody(payload: str) -> None:
    assert summoned(payload, 1)


def test_a_payload_is_for_those_it_names_and_for_who_does_not_know_his_backend() -> None:
    payload = summons([12, 345])
    assert [pid for pid in (1, 12, 34, 45, 123, 345) if summoned(payload, pid)] == [12, 345]
    assert summoned(payload, None)
