"""What `make mutants` and `make interleavings` go by exists: places, tests, and pages that tell."""

from __future__ import annotations

import ast
from pathlib import Path

from scripts import interleavings, mutants

ROOT = Path(__file__).parents[2]


def is_there(test: str) -> bool:
    """Tell whether a test (or a whole file of them) exists."""
    file, _, name = test.partition("[")[0].partition("::")
    if not (ROOT / file).exists():
        return False
    return not name or has_cases(test) is not None


def has_cases(test: str) -> bool | None:
    """Tell whether a test is one of several cases; None where there is no such test."""
    file, _, name = test.partition("[")[0].partition("::")
    tree = ast.parse((ROOT / file).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return any("parametrize" in ast.unparse(mark) for mark in node.decorator_list)
    return None


def test_every_mistake_has_one_place_to_be_planted_in_and_tests_that_exist() -> None:
    listed = mutants.mutants()
    found = {one.name: (ROOT / one.file).read_text().count(one.before) for one in listed}
    assert {name: count for name, count in found.items() if count != 1} == {}
    assert [test for one in listed for test in one.tests if not is_there(test)] == []
    assert len(found) == len(listed)


def test_every_mistake_is_told_of_with_the_test_that_noticed() -> None:
    page = (ROOT / "docs" / "mutants.md").read_text()
    told = [one.name for one in mutants.mutants() if f"| {one.name} |" not in page]
    assert told == []
    assert "**nobody**" not in page


def test_every_pair_is_played_by_a_test_that_exists_and_told_of() -> None:
    pairs = interleavings.PAIRS
    assert [test for _, test in pairs if not is_there(test)] == []
    # What is played is told of by case: a row for all cases of a test would find none.
    assert [test for _, test in pairs if has_cases(test) is not ("[" in test)] == []
    page = (ROOT / "docs" / "interleavings.md").read_text()
    assert [what for what, _ in pairs if f"| {what} |" not in page] == []
