"""What a tick's statement is sent without, and what never."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from orchestrator.store.admission import SQL, Portion, Wanted
from orchestrator.store.lean import lean
from orchestrator.store.packed import Int8s, Texts
from orchestrator.store.sql import Call

ADDING = (b"insert into orchestrator.org_state", b"insert into orchestrator.flow_state")
FORGETTING = b"delete from orchestrator.overrun"


FLOWS = b"from unnest(%(orgs)s"
ORGS = b"from unnest(%(org_places)s"


def sent(
    orgs: Sequence[str | None],
    flows: Sequence[str | None],
    overran: Sequence[int] = (),
    tasks: Sequence[int] = (),
) -> bytes:
    """Return the text for orgs and flows at these places, and so many tasks of each flow wanted."""
    portion = Portion(
        Texts("abc"[: len(orgs)]),
        Texts(orgs),
        Int8s(),
        Texts("abc"[: len(flows)]),
        Texts("abc"[: len(flows)]),
        Texts(flows),
        Int8s(),
    )
    wanted = [Wanted("a", "a", (0, 0), 0, 1, 1, 0, list(range(count))) for count in tasks]
    return lean(Call(SQL["tick"], {}), wanted, portion, overran).statement


@pytest.mark.parametrize(
    ("orgs", "flows"), [(["(0,1)", None], ["(0,1)"]), (["(0,1)"], [None]), ([None], [None])]
)
def test_whoever_has_no_place_yet_is_added(
    orgs: Sequence[str | None], flows: Sequence[str | None]
) -> None:
    assert all(part in sent(orgs, flows, []) for part in ADDING)


def test_where_all_have_a_place_nobody_is_added_and_all_are_updated() -> None:
    text = sent(["(0,1)"], ["(0,1)"], [7])
    assert not any(part in text for part in ADDING)
    assert all(
        part in text for part in (b"update orchestrator.org_state", b"update orchestrator.flow_")
    )
    assert FORGETTING in text


def test_overruns_are_forgotten_where_there_are_any() -> None:
    assert FORGETTING in sent([None], [], [7])
    assert FORGETTING not in sent([None], [], [])


def test_a_single_task_is_looked_up_without_a_loop_over_flows() -> None:
    assert FLOWS not in sent(["(0,1)"], ["(0,1)"], tasks=[1])
    assert FLOWS in sent(["(0,1)"], ["(0,1)"], tasks=[2])
    assert FLOWS in sent(["(0,1)"], ["(0,1)"], tasks=[1, 1])
    assert FLOWS in sent(["(0,1)"], ["(0,1)"])


@pytest.mark.parametrize(
    ("orgs", "flows", "several"),
    [
        (["(0,1)"], ["(0,1)"], False),
        (["(0,1)", "(0,2)"], ["(0,1)", "(0,2)"], True),
        (["(0,1)"], ["(0,1)", "(0,2)"], True),
        ([], [], True),
    ],
)
def test_an_org_with_one_flow_is_saved_without_a_loop_over_orgs(
    orgs: Sequence[str], flows: Sequence[str], several: bool
) -> None:
    text = sent(orgs, flows, tasks=[1])
    assert (ORGS in text) == several
    assert text.count(b"update orchestrator.org_state") == 1
    assert text.count(b"update orchestrator.flow_state") == 1


@pytest.mark.parametrize(
    ("places", "overran"), [([None], []), (["(0,1)"], [7])], ids=["new", "overran"]
)
def test_a_rare_tick_for_a_single_task_has_no_text_of_its_own(
    places: Sequence[str | None], overran: Sequence[int]
) -> None:
    assert FLOWS in sent(places, places, overran, tasks=[1])
