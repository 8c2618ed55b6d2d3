"""What a notification tells of a staged task; anybody may notify of anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.leader import hints
from orchestrator.leader.hints import Hints
from orchestrator.store.admission import Staged
from orchestrator.wakeup.hint import Hint, hint_of

INT8 = st.integers(-(2**63), 2**63 - 1)


def staged(number: int, task_id: int) -> Staged:
    return Staged(f"org {number}", "w", 1, -5, task_id, 0, number)


@given(number=INT8, priority=st.integers(1, 10), task_id=st.integers(1, 10**18 - 1))
def test_a_hint_is_read_as_it_was_written(number: int, priority: int, task_id: int) -> None:
    assert hint_of([f"{number} {-priority} {task_id}"]) == Hint(number, -priority, task_id)


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "1 2",
        "1 -5 3 4",
        "x -5 3",
        "1 -5 -3",
        "1 -500 3",
        "1 -5 " + "9" * 40,
        "1 -5 3\n",
        "¹ -5 3",
    ],
)
def test_any_other_payload_says_only_that_something_was_staged(payload: str) -> None:
    assert hint_of([payload]) is None


@given(st.text())
def test_no_payload_is_an_error(payload: str) -> None:
    hint = hint_of([payload])
    assert hint is None or max(map(abs, hint[1:])) < 2**63


def test_of_several_notifications_none_is_believed_to_be_all() -> None:
    assert hint_of(["1 -5 3", "1 -5 4"]) is None
    assert hint_of([]) is None


def test_a_hint_is_news_where_its_flow_is_known_and_its_task_is_not() -> None:
    known = Hints()
    assert not known.knows(Hint(7, -5, 11)), "no feed has told of the flow"
    known.learn(staged(7, 10))
    assert not known.knows(Hint(7, -5, 10)), "the feed has told of it"
    assert known.knows(Hint(7, -5, 11))
    assert known.take(Hint(7, -5, 11)) == ("org 7", "w")
    assert not known.knows(Hint(7, -5, 11)), "said twice"
    assert not known.knows(Hint(8, -5, 12))


def test_of_very_many_flows_no_more_are_known_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "FLOWS_MAX", 10)
    known = Hints()
    for number in range(25):
        known.learn(staged(number, 1))
        assert known.knows(Hint(number, -5, 2))
    assert sum(known.knows(Hint(number, -5, 2)) for number in range(25)) <= 10
