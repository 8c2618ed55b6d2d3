"""The collector of cycles rests while what stays is made, and works on afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from threading import Event, Thread

import pytest

from orchestrator.leader.uncollected import uncollected


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Leave the collector as it was found."""
    was = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if was else gc.disable)()


def test_it_rests_inside_and_works_on_afterwards_whatever_happened() -> None:
    def fail() -> None:
        with uncollected():
            assert not gc.isenabled()
            raise ValueError("of the body")

    with pytest.raises(ValueError, match="of the body"):
        fail()
    assert gc.isenabled()


def test_whoever_had_it_off_has_it_off_afterwards() -> None:
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_of_two_at_once_it_rests_until_the_last_is_done() -> None:
    begun, end = Event(), Event()

    def other() -> None:
        with uncollected():
            begun.set()
            assert end.wait(10)

    thread = Thread(target=other)
    with uncollected():
        thread.start()
        assert begun.wait(10)
    assert not gc.isenabled()
    end.set()
    thread.join()
    assert gc.isenabled()


def test_what_was_made_is_walked_by_no_young_collection_and_by_a_full_one() -> None:
    with uncollected():
        made: list[list[object]] = [[] for _ in range(1_000)]
    oldest = {id(each) for each in gc.get_objects(generation=2)}
    assert all(id(each) in oldest for each in made)
    assert gc.get_freeze_count() == 0
