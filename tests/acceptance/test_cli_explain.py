"""`explain` as a process: the reasons in their order, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.model import Explanation, Reason, ReasonKind
from tests.acceptance.cli import Shell
from tests.support.stage import Stage

HOSTILE = "a\x1b[31m"


@pytest.fixture
def stage(dsn: str) -> Iterator[Stage]:
    with Stage(dsn) as opened:
        yield opened


@pytest.fixture
def shell(dsn: str, tmp_path: Path) -> Shell:
    return Shell(dsn, tmp_path)


def test_json_has_every_field_of_an_explanation_and_of_its_reasons(
    shell: Shell, stage: Stage
) -> None:
    stage.set_org("acme", burst_max=2)
    leader = stage.leader()
    held = stage.enqueue(2, "acme")
    leader.step()
    stage.enqueue(3, "acme")
    (task_id,) = stage.enqueue(1, "acme")

    told = shell("explain", str(task_id), "--json").json["explanation"]

    assert set(told) == set(Explanation.__dataclass_fields__)
    assert (told["id"], told["org"], told["place"]) == (task_id, "acme", "staged")
    assert told["probability"] == 0.8
    assert told["at"].endswith("Z")
    first, second = told["reasons"][:2]
    assert set(first) == set(Reason.__dataclass_fields__)
    assert (first["kind"], first["count"], first["limit"]) == ("burst_max", 2, 2)
    assert first["tasks"] == held
    assert (second["kind"], second["count"]) == ("behind_own_tasks", 3)


def test_people_are_told_what_binds_first_and_what_would_unblock_it(
    shell: Shell, stage: Stage
) -> None:
    (task_id,) = stage.enqueue(1, "acme")
    shell("org", "pause", "acme", "--reason", "invoice overdue")

    out = shell("explain", str(task_id)).out

    first, second = out.index("1. org_paused:"), out.index("2. leader_absent:")
    assert first < second
    assert "invoice overdue" in out[first:second]
    assert "orchestrator org resume acme" in out[first:second]
    assert "expected start  -" in out


def test_the_expected_start_is_told_with_its_interval(shell: Shell, stage: Stage) -> None:
    leader = stage.leader()
    # A worker announces itself by the name of its session.
    stage.do("set application_name = 'orchestrator worker q=1 c=4'")
    leader.step()
    (task_id,) = stage.enqueue(1)

    out = shell("explain", str(task_id)).out
    told = shell("explain", str(task_id), "--json").json["explanation"]

    assert "80% between" in out
    assert told["at"] <= told["expected_start_low_at"] <= told["expected_start_at"]
    assert told["expected_start_at"] < told["expected_start_high_at"]
    assert told["rate_per_s"] > 0


def test_names_cannot_command_the_terminal(shell: Shell, stage: Stage) -> None:
    stage.set_org(HOSTILE, burst_max=1)
    leader = stage.leader()
    stage.enqueue(1, HOSTILE)
    leader.step()
    (task_id,) = stage.enqueue(1, HOSTILE)
    out = shell("explain", str(task_id)).out
    assert "\x1b" not in out
    assert "burst_max" in out
    assert json.dumps(HOSTILE) in shell("explain", str(task_id), "--json").out


def test_an_unknown_task_is_one_line_and_code_1(shell: Shell) -> None:
    assert "no task 4711" in shell.refused("explain", "4711", code=1)


def test_every_kind_of_reason_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    section = text.partition("### What explain tells")[2].partition("\n#")[0]
    places = [section.index(f"`{kind}`") for kind in ReasonKind]
    assert places == sorted(places)
