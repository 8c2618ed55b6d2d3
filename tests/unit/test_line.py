"""Lines in which one lingers: for whom, how long, and when nobody does."""

from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.client import gathering
from orchestrator.client.gathering import Joint, Line, Seat, Turn
from orchestrator.store.sql import Operation


def together(queue: int, items: Sequence[Any]) -> Operation:
    """Do nothing for all items."""
    yield from ()
    return [queue, *items]


class Place(Seat):
    """A place that notes that it was rung."""

    def __init__(self) -> None:
        super().__init__(Joint(1, "item", 4, together))
        self.rings: list[None] = []

    def lead(self) -> None:
        self.ring()

    def ring(self) -> None:
        self.rings.append(None)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gathering, "time", clock)
    return clock


def share(line: Line, clock: Clock, count: int, took_s: float = 0.001) -> None:
    """Have a statement of `count` return that took so long."""
    first, seats = Place(), [Place() for _ in range(count)]
    assert line.enter(first)
    assert not any(line.enter(seat) for seat in seats)
    line.leave(first)
    leader = seats[0]
    assert leader.turn is Turn.LEAD
    line.gather(leader)
    clock.now_s += took_s
    leader.answered(range(count))
    line.leave(leader)
    assert all(seat.turn is Turn.ANSWERED and seat.rings for seat in seats)


def test_the_first_to_come_back_lingers_until_as_many_are_there(clock: Clock) -> None:
    line = Line(0.5)
    share(line, clock, 3)
    first, second, third = Place(), Place(), Place()
    assert not line.enter(first)
    assert first.turn is Turn.LEAD
    assert first.linger_s == pytest.approx(0.0005)
    assert not line.enter(second)
    assert len(first.rings) == 0
    assert not line.enter(third)
    assert len(first.rings) == 1
    line.gather(first)
    assert list(first.batch) == [first, second, third]


def test_who_lingered_in_vain_goes_without_and_nobody_lingers_after_it(clock: Clock) -> None:
    line = Line(0.5)
    share(line, clock, 3)
    first, next_one = Place(), Place()
    assert not line.enter(first)
    line.gather(first)
    assert list(first.batch) == [first]
    first.answered([1])
    line.leave(first)
    assert line.enter(next_one)


def test_nobody_lingers_for_those_who_had_the_time_to_come_back(clock: Clock) -> None:
    line = Line(0.5)
    share(line, clock, 3)
    clock.now_s += 0.0006
    assert line.enter(Place())


def test_a_statement_that_stood_makes_nobody_linger_long(clock: Clock) -> None:
    line = Line(0.5)
    share(line, clock, 3, took_s=4.0)
    first = Place()
    assert not line.enter(first)
    assert first.linger_s == gathering.LINGER_MAX_S


def test_after_one_that_went_alone_nobody_lingers(clock: Clock) -> None:
    line = Line(0.5)
    first = Place()
    assert line.enter(first)
    line.leave(first)
    assert line.enter(Place())


def test_without_a_part_nobody_lingers(clock: Clock) -> None:
    line = Line()
    share(line, clock, 3)
    assert line.enter(Place())


def test_who_is_interrupted_while_it_lingers_leaves_and_the_next_leads(clock: Clock) -> None:
    line = Line(0.5)
    share(line, clock, 3)
    first, second, third, fourth = Place(), Place(), Place(), Place()
    for seat in (first, second):
        assert not line.enter(seat)
    line.leave(first)
    assert first.turn is Turn.FAILED
    assert second.turn is Turn.LEAD
    rings = list(first.rings)
    assert not line.enter(third)
    assert not line.enter(fourth)
    assert first.rings == rings
    line.gather(second)
    assert list(second.batch) == [second, third, fourth]
