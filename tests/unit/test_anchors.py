"""The focus stays with an org while the rows around it come and go: its id is made of its name."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.server.dashboard.pages import environment

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


def anchor(name: str) -> str:
    return environment().from_string('<a id="{{ name | anchor }}">').render(name=name)


@given(NAMES, NAMES)
def test_an_org_has_an_anchor_of_its_own_without_spaces_or_quotes(one: str, other: str) -> None:
    assert (anchor(one) == anchor(other)) is (one == other)
    inside = anchor(one).removeprefix('<a id="').removesuffix('">')
    assert not set(inside) & set("\"'<>& \t\n")
