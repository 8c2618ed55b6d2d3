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


def turn(seat: Seat) -> Turn:
    return seat.turn


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


def hung(line: Line, *riding: Place) -> Place:
    """Have a statement be under way that carries `riding`; return who leads it."""
    first = Place()
    assert line.enter(first)
    assert not any(line.enter(seat) for seat in riding)
    if not riding:
        return first
    line.leave(first)
    line.gather(riding[0])
    return riding[0]


def test_who_waited_in_vain_has_the_first_in_line_lead_and_all_ride_with_it(clock: Clock) -> None:
    line, one, other, late = Line(), Place(), Place(), Place()
    silent = hung(line)
    assert not line.enter(one)
    assert not line.enter(other)
    # Whose patience ends first is not the first: it waits on.
    assert line.take_over(other)
    assert turn(one) is Turn.LEAD
    assert len(one.rings) == 1
    line.gather(one)
    assert list(one.batch) == [one, other]
    one.answered([1, 2])
    line.leave(one)
    # Whoever comes later goes at once.
    assert line.enter(late)
    # What was silent ends: that concerns nobody else.
    line.leave(silent)
    assert not line.enter(Place())


def test_who_takes_over_leads_itself_where_it_is_the_first(clock: Clock) -> None:
    line, one = Line(), Place()
    hung(line)
    assert not line.enter(one)
    assert not line.take_over(one)
    assert turn(one) is Turn.LEAD
    assert len(one.rings) == 1


def test_while_the_line_moves_nobody_takes_over(clock: Clock) -> None:
    line, one, other, third = Line(), Place(), Place(), Place()
    first = Place()
    assert line.enter(first)
    assert not line.enter(one)
    assert not line.enter(other)
    line.leave(first)
    # It leads, and takes nobody along yet.
    assert turn(one) is Turn.LEAD
    assert line.take_over(other)
    assert turn(other) is Turn.WAIT
    # The next time nothing has moved.
    assert not line.enter(third)
    assert not line.take_over(other)
    assert turn(other) is Turn.LEAD


def test_who_rides_does_not_take_over(clock: Clock) -> None:
    line, leader, rider = Line(), Place(), Place()
    assert hung(line, leader, rider) is leader
    assert not line.take_over(rider)
    assert turn(rider) is Turn.WAIT
    assert not line.enter(Place())


def test_a_silent_leader_tells_those_who_ride_with_it_and_leads_nobody_any_more(
    clock: Clock,
) -> None:
    line, leader, rider, one, other = Line(), Place(), Place(), Place(), Place()
    hung(line, leader, rider)
    assert not line.enter(one)
    assert not line.take_over(one)
    assert not line.enter(other)
    leader.answered([1, 2])
    rings = list(other.rings)
    line.leave(leader)
    assert turn(rider) is Turn.ANSWERED
    assert rider.rings
    assert turn(other) is Turn.WAIT
    assert other.rings == rings
    line.leave(one)
    assert turn(other) is Turn.LEAD


def test_a_silent_statement_that_ends_makes_nobody_linger(clock: Clock) -> None:
    line, leader, rider, one = Line(0.5), Place(), Place(), Place()
    hung(line, leader, rider)
    clock.now_s += 5
    assert not line.enter(one)
    assert not line.take_over(one)
    line.gather(one)
    clock.now_s += 0.001
    one.answered([1])
    line.leave(one)
    leader.answered([1, 2])
    line.leave(leader)
    assert line.enter(Place())


def test_who_is_interrupted_while_it_tells_the_next_to_lead_tells_it_when_it_leaves(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, one, other = Line(), Place(), Place()
    hung(line)
    assert not line.enter(one)
    assert not line.enter(other)

    def interrupted(_: Place) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Place, "lead", interrupted)
    with pytest.raises(KeyboardInterrupt):
        line.take_over(other)
    monkeypatch.undo()
    line.leave(other)
    assert turn(one) is Turn.LEAD
    assert one.rings
    line.gather(one)
    assert list(one.batch) == [one]
