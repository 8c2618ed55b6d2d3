"""What a tick's statement is sent without, and what never."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.store.admission import SQL, Wanted
from orchestrator.store.lean import lean
from orchestrator.store.sql import Call

FORGETTING = b"delete from orchestrator.overrun"
FLOWS = b"from unnest(%(orgs)s"


def sent(tasks: Sequence[int], overran: Sequence[int] = ()) -> bytes:
    """Return the text where so many tasks of each flow are wanted."""
    wanted = [Wanted("a", "a", (0, 0), 0, 1, 1, 0, list(range(count))) for count in tasks]
    return lean(Call(SQL["tick"], {}), wanted, overran).statement


def test_overruns_are_forgotten_where_there_are_any() -> None:
    assert FORGETTING in sent([], [7])
    assert FORGETTING not in sent([], [])


def test_a_single_task_is_looked_up_without_a_loop_over_flows() -> None:
    assert FLOWS not in sent([1])
    assert FLOWS in sent([2])
    assert FLOWS in sent([1, 1])
    assert FLOWS in sent([])


def test_a_rare_tick_for_a_single_task_has_no_text_of_its_own() -> None:
    assert FLOWS in sent([1], [7])


def test_what_changed_is_journaled_whatever_is_left_out() -> None:
    assert all(b"insert into orchestrator.cut_journal" in sent(tasks) for tasks in ([], [1], [2]))
