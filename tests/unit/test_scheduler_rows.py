"""What is persisted decides: a scheduler loaded from rows goes on as the one that wrote them."""

from __future__ import annotations

import copy
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.fairness import OrgState, Pick, WeightedScheduler
from tests.unit.drawn import decisions, histories, worlds
from tests.unit.histories import Event, World, law, snapshot

any_worlds = st.booleans().flatmap(lambda some: worlds(headroom=some))


@law
@given(any_worlds, histories(), histories())
def test_a_scheduler_loaded_from_what_it_persists_goes_on_with_the_same_picks(
    world: World, before: list[Event], after: list[Event]
) -> None:
    twin = world.run(before).reborn(world.scheduler.orgs)
    assert snapshot(twin.scheduler) == snapshot(world.scheduler)
    assert twin.run(after).picks == world.run(after).picks


@law
@given(any_worlds, histories(), histories())
def test_writing_only_the_dirty_orgs_persists_all_that_decides(
    world: World, before: list[Event], after: list[Event]
) -> None:
    rows: dict[str, OrgState] = {}

    def persist(world: World, _: Pick | None) -> None:
        for org in world.scheduler.dirty:
            rows[org] = copy.deepcopy(world.scheduler.orgs[org])
        world.scheduler.dirty.clear()

    world.run(before, persist)
    # A round without an admission may have changed who stands in line.
    persist(world, None)
    twin = world.reborn(rows)
    assert snapshot(twin.scheduler) == snapshot(world.scheduler)
    assert twin.run(after).picks == world.run(after).picks


@law
@given(any_worlds, histories(), histories())
def test_subtracting_virtual_time_from_every_tag_changes_no_decision(
    world: World, before: list[Event], after: list[Event]
) -> None:
    world.run(before)
    twin = world.reborn(world.scheduler.orgs, renormalise=True)
    assert twin.scheduler.virtual_time == 0
    assert twin.run(after).picks == world.run(after).picks


@law
@given(any_worlds, histories(), st.lists(decisions(), max_size=5), histories())
def test_who_stands_right_is_configured_as_if_looked_at_anew(
    world: World, before: list[Event], meanwhile: list[Event], after: list[Event]
) -> None:
    """What operators decide while nobody leads is in force for the next term, but its rows are from
    before.
    """
    rows = copy.deepcopy(world.run(before).scheduler.orgs)
    world.run(meanwhile)
    # Every org is looked at again, and put in line again, whenever it is configured.
    with patch.object(WeightedScheduler, "_by_decision", new=True):
        looked_at = world.reborn(rows)
        was = snapshot(looked_at.scheduler)
        picks = looked_at.run(after).picks
    twin = world.reborn(rows)
    assert snapshot(twin.scheduler) == was
    assert twin.run(after).picks == picks
