"""The pages on faults and reliability name what exists, and publish what was counted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.faults.chaos.report import BEGIN, END, PAGE, failover, filled
from tests.faults.chaos.table import TABLE, totals

ROOT = Path(__file__).parents[2]
FAULTS = ROOT / "docs" / "faults.md"
ROWS = [line for line in FAULTS.read_text().splitlines() if line.startswith("| ")][2:]
_GROUP = re.compile(r"`(tests/[\w/]+\.py)`: ((?:`test_\w+`(?:, )?)+)")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_every_fault_names_tests_that_exist(row: str) -> None:
    shown = row.split("|")[3]
    groups = _GROUP.findall(shown)
    assert groups or "chaos" in shown or "](benchmarks.md)" in shown
    for path, names in groups:
        code = (ROOT / path).read_text()
        for name in re.findall(r"`(test_\w+)`", names):
            assert re.search(rf"^def {name}\(", code, re.MULTILINE), f"{path} has no {name}"
    assert len(re.findall(r"`test_\w+`", shown)) == sum(n.count("`") // 2 for _, n in groups)


def test_the_published_table_has_no_violation_and_hit_every_path() -> None:
    counts, _ = totals(TABLE)
    assert counts["schedules"] > 0
    assert counts["violated"] == 0
    hit = ("lost", "dead", "unknown", "stale by session", "stale by fence")
    lost = ("lost reply leader", "lost reply worker", "lost reply producer")
    for path in (*hit, *lost):
        assert counts[path] > 0, path


def test_the_page_publishes_no_more_than_was_counted() -> None:
    page = PAGE.read_text()
    (said,) = re.findall(r"^\| schedules played \| ([\d,]+) \|", page, re.MULTILINE)
    assert 0 < int(said.replace(",", "")) <= totals(TABLE)[0]["schedules"]
    assert failover() in page
    assert page.count(BEGIN) == page.count(END) == 2
    assert filled(filled(page)) == filled(page)


def test_the_failover_that_is_published_meets_its_bars() -> None:
    figures = {}
    for line in failover().splitlines()[2:]:
        kind, *numbers = [part.strip() for part in line.strip("|").split("|")]
        figures[kind] = [float(number) for number in numbers]
    assert figures["killed"][0] + figures["paused"][0] >= 300
    _, p50, p99, longest = figures["killed"]
    assert p50 < 1
    assert p99 < 1.5
    assert longest < 6.5
    _, _, p99, longest = figures["paused"]
    assert p99 < 3.5
    assert longest < 6.5
