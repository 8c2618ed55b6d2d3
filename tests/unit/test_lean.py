"""What a tick's statement is sent without, and what never."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from orchestrator.store.admission import SQL, Portion
from orchestrator.store.lean import TEXTS, lean
from orchestrator.store.packed import Int8s, Texts
from orchestrator.store.sql import Call

ADDING = (b"insert into orchestrator.org_state", b"insert into orchestrator.flow_state")
FORGETTING = b"delete from orchestrator.overrun"


def sent(orgs: Sequence[str | None], flows: Sequence[str | None], overran: Sequence[int]) -> bytes:
    names, values = Texts("abc"), Int8s()
    portion = Portion(names, Texts(orgs), values, names, names, Texts(flows), values)
    return lean(Call(SQL["tick"], {}), portion, overran).statement


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


def test_no_part_leaves_a_trace_of_its_own() -> None:
    assert len(TEXTS) == 4
    for text in TEXTS:
        assert text.count(b"-- part ") == text.count(b"-- end part")
    assert b"-- part" not in min(TEXTS, key=len)
