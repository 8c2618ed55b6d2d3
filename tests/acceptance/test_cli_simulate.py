"""`simulate`: what would happen under another policy, from a file or from the live database."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import simulate as benchmark
from orchestrator.model import AttemptStatus, Policy
from orchestrator.store import orgs
from orchestrator.store import queue as store_queue
from orchestrator.store.sql import run
from tests.acceptance.cli import ROOT, Shell
from tests.support.stage import Stage
from tests.support.stepping import claim, endings

SLOTS = {"slots": 2}


@pytest.fixture
def stage(dsn: str) -> Iterator[Stage]:
    with Stage(dsn) as opened:
        yield opened


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run verbs with no database, in a directory with a trace: a flood, and two who trickle."""
    shell = Shell(None, tmp_path)
    flood = [arrival(0, "noisy")] * 60
    trickle = [arrival(second, org) for second in range(10) for org in ("free-1", "quiet")]
    shell.file("trace.jsonl", jsonl(SLOTS, *flood, *trickle))
    return shell


def arrival(at: float, org: str, duration_s: float = 0.5) -> dict[str, object]:
    return {"at": at, "org": org, "duration_s": duration_s}


def jsonl(*lines: Mapping[str, object]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def simulated(shell: Shell, *arguments: str, **kwargs: Any) -> dict[str, Any]:
    """Simulate the trace; return the document, its policies and orgs by name."""
    document = shell("simulate", *arguments, "--json", **kwargs).json
    by_name = {each["name"]: each for each in document["policies"]}
    orgs = {
        each["org"]: {policy["name"]: policy for policy in each["policies"]}
        for each in document["orgs"]
    }
    return {"trace": document["trace"], "policies": by_name, "orgs": orgs}


# Files


def test_policies_stand_side_by_side(shell: Shell) -> None:
    out = shell(
        "simulate", "trace.jsonl", "--set", "org:noisy.burst_max=1", "--baseline", "fifo"
    ).out
    assert "80 tasks of 3 orgs over 9.0s, from trace.jsonl; 2 slots" in out
    header, *rows = [line for line in out.splitlines() if line.startswith(("  ", "dwell", "rule"))]
    assert header.split() == ["current", "proposed", "fifo"]
    assert [line.split()[0] for line in rows[:3]] == ["rule", "dwell", "standard"]
    for word in ("Jain index", "worst lag / bound", "utilisation", "orgs starved", "share of"):
        assert word in out
    assert "orgs by change of dwell" in out


def test_a_cap_protects_the_others_and_fifo_does_not(shell: Shell) -> None:
    found = simulated(shell, "trace.jsonl", "--set", "org:noisy.burst_max=1", "--baseline", "fifo")
    assert list(found["policies"]) == ["current", "proposed", "fifo"]
    noisy, quiet = found["orgs"]["noisy"], found["orgs"]["quiet"]
    assert noisy["proposed"]["in_flight_peak"] == 1
    assert noisy["proposed"]["dwell"]["p95_s"] > noisy["current"]["dwell"]["p95_s"]
    assert quiet["current"]["dwell"]["p95_s"] <= 1.0 < quiet["fifo"]["dwell"]["p95_s"]
    jains = [found["policies"][name]["jain"] for name in ("current", "fifo")]
    assert jains[0] > 0.95 > jains[1]
    assert found["policies"]["current"]["lag"]["ratio"] < 1
    assert found["policies"]["current"]["starved"] == 0


def test_each_policy_file_is_a_column_on_top_of_current(shell: Shell) -> None:
    shell.file("a.toml", "slots = 4\n")
    shell.file("b.toml", '[org.quiet]\ntier = "enterprise"\n[tier.enterprise]\nweight = 100\n')
    found = simulated(
        shell, "trace.jsonl", "--policy", "a.toml", "--policy", "b.toml", "--set", "slots=8"
    )["policies"]
    assert list(found) == ["current", "a.toml", "b.toml", "proposed"]
    assert [each["slots"] for each in found.values()] == [2, 4, 2, 8]
    assert [tier["tier"] for tier in found["b.toml"]["tiers"]] == ["enterprise", "standard"]
    assert [tier["tier"] for tier in found["a.toml"]["tiers"]] == ["standard"]
    assert found["b.toml"]["tiers"][0]["share"] == pytest.approx(10 / 80)
    assert found["proposed"]["until_s"] < found["current"]["until_s"]


def test_the_example_of_a_policy_can_be_simulated(shell: Shell) -> None:
    shutil.copy(ROOT / "docs" / "examples" / "policy.toml", shell.directory)
    lines = [arrival(0, "acme"), {**arrival(1, "free-1"), "workload": "chat"}]
    shell.file("chat.jsonl", jsonl(*lines))
    found = simulated(shell, "chat.jsonl", "--slots", "3", "--policy", "policy.toml")
    assert [each["slots"] for each in found["policies"].values()] == [3, 32]
    assert found["orgs"]["acme"]["policy.toml"]["weight"] == 8


def test_without_a_database_the_current_policy_is_that_of_a_new_one(shell: Shell) -> None:
    found = simulated(shell, "trace.jsonl", "--set", "org:free-1.tier=free")["orgs"]["free-1"]
    assert (found["current"]["tier"], found["current"]["weight"]) == ("standard", 2)
    assert (found["proposed"]["tier"], found["proposed"]["weight"]) == ("free", 1)


def test_a_trace_may_come_through_a_pipe(shell: Shell) -> None:
    text = (shell.directory / "trace.jsonl").read_text()
    piped, read = simulated(shell, "-", stdin=text), simulated(shell, "trace.jsonl")
    assert piped["policies"] == read["policies"]


def test_the_figure_shows_every_policy(shell: Shell) -> None:
    shell("simulate", "trace.jsonl", "--set", "org:quiet.tier=premium", "--figure", "dwell.svg")
    text = (shell.directory / "dwell.svg").read_text()
    ET.fromstring(text)  # well-formed
    for word in ("current, p50", "proposed, p95", "premium", "standard", "10 s"):
        assert word in text
    shell("simulate", "trace.jsonl", "--figure", "orgs.svg", "--top", "2")
    assert "noisy" in (shell.directory / "orgs.svg").read_text()


def test_progress_is_shown_on_a_terminal_and_nowhere_else(shell: Shell) -> None:
    assert shell("simulate", "trace.jsonl").err == ""
    ran = shell.on_terminal("simulate", "trace.jsonl", "--json")
    assert ran.json["trace"]["tasks"] == 80
    assert "reading" in ran.err


def test_an_org_without_a_task_is_pointed_out(shell: Shell) -> None:
    err = shell("simulate", "trace.jsonl", "--set", "org:acmee.weight=3", "--json").err
    assert err == "--set org 'acmee' has no task in the trace: check its name\n"


def test_memory_grows_by_some_bytes_a_task() -> None:
    figures = benchmark.measure(20_000)
    assert figures["started"] == figures["tasks"] == 20_000
    # The code and 10,000 orgs are half of it: so a task may cost two kilobytes at most.
    assert int(str(figures["peak_rss_mb"])) < 100


# Critical tasks


@pytest.fixture
def urgent(shell: Shell) -> Shell:
    """Run verbs in a directory with a trace: a critical task finds both slots taken."""
    critical = {**arrival(1, "acme", 1), "critical": True}
    other = arrival(2, "globex", 1)
    low = {**arrival(0, "acme", 8), "priority": 3}
    shell.file("urgent.jsonl", jsonl(SLOTS, low, arrival(0, "acme", 8), critical, other))
    return shell


def test_the_dwell_of_critical_tasks_is_told_apart_where_there_are_any(urgent: Shell) -> None:
    options = ("--set", "org:acme.burst_max=2", "--set", "yield_s=500ms", "--baseline", "fifo")
    out = urgent("simulate", "urgent.jsonl", *options).out
    assert "1 of them critical" in out
    rows = {line[:26].strip(): line[26:].split() for line in out.splitlines()}
    assert rows["dwell of critical tasks"][:2] == ["7.0", "s"]
    assert rows["running tasks that yielded"] == ["0", "1", "0"]
    assert any(line.split()[:2] == ["critical", "1"] for line in out.splitlines())
    found = simulated(urgent, "urgent.jsonl", *options)
    assert found["trace"]["critical"] == 1
    told = [each["critical"]["dwell"]["p50_s"] for each in found["policies"].values()]
    assert told == [7.0, 0.5, 7.0]
    assert [each["yields"] for each in found["policies"].values()] == [0, 1, 0]
    assert found["orgs"]["acme"]["proposed"]["critical"]["tasks"] == 1
    assert found["orgs"]["globex"]["proposed"]["critical"] is None
    urgent("simulate", "urgent.jsonl", "--figure", "dwell.svg")
    assert "critical tasks" in (urgent.directory / "dwell.svg").read_text()


def test_without_critical_tasks_nothing_is_said_of_them(shell: Shell) -> None:
    ran = shell("simulate", "trace.jsonl", "--yield-after", "1s", "--figure", "dwell.svg")
    assert "critical" not in ran.out
    assert "yielded" not in ran.out
    assert "critical" not in (shell.directory / "dwell.svg").read_text()
    found = simulated(shell, "trace.jsonl")
    assert (found["trace"]["critical"], found["policies"]["current"]["critical"]) == (0, None)


def test_how_soon_a_task_yields_holds_for_every_column(urgent: Shell) -> None:
    urgent.file("capped.toml", "[org.acme]\nburst_max = 2\n")
    options = ("--policy", "capped.toml", "--set", "yield_s=none", "--set", "org:acme.burst_max=2")
    found = simulated(urgent, "urgent.jsonl", *options, "--yield-after", "250ms")["policies"]
    # Where the org has no cap nobody is asked; `proposed` has it another way.
    assert [each["yields"] for each in found.values()] == [0, 1, 0]
    assert found["capped.toml"]["critical"]["dwell"]["p50_s"] == 0.25


# What is wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "either FILE or --from-history 24h"),
        ("trace.jsonl --from-history 1h", "either FILE or --from-history 24h"),
        ("--from-history 1h", "no database named"),
        ("--from-history soon", "--from-history 'soon'"),
        ("nope.jsonl", "no file nope.jsonl"),
        (".", "cannot read ."),
        ("bad.jsonl", "bad.jsonl: line 2: unknown field 'duration'"),
        ("bare.jsonl", "give --slots N"),
        ("empty.jsonl", "empty.jsonl: the trace is empty"),
        ("latin.jsonl", "is not UTF-8"),
        ("trace.jsonl --set org:acme.brust_max=20", "known are tier, weight, burst_max, paused"),
        ("trace.jsonl --set org:acme.burst_max", "has no value"),
        ("trace.jsonl --set tier:fre.weight=2", "known are enterprise, free, premium, standard"),
        ("trace.jsonl --set org:quiet.tier=gold", "unknown tier 'gold'"),
        ("trace.jsonl --set queue.headroom=2", "set capacity too"),
        ("trace.jsonl --policy nope.toml", "no file nope.toml"),
        ("trace.jsonl --policy bad.toml", "bad.toml: org.acme.wait: unknown field"),
        ("trace.jsonl --policy ok.toml --policy ok.toml", "two columns would be called 'ok.toml'"),
        ("trace.jsonl --baseline lifo", "fifo, max-min, sqs"),
        ("trace.jsonl --yield-after soon", "--yield-after"),
        ("trace.jsonl --yield-after 1us", "--yield-after"),
        ("trace.jsonl --yield-after 0.0001", "--yield-after must be at least 0.001 s"),
        ("trace.jsonl --figure no/such.svg", "no directory no"),
        ("trace.jsonl --export no/such.jsonl", "no directory no"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(shell: Shell, arguments: str, said: str) -> None:
    shell.file("bad.jsonl", jsonl(arrival(0, "a"), {"at": 1, "org": "a", "duration": 3}))
    shell.file("bare.jsonl", jsonl(arrival(0, "a")))
    shell.file("empty.jsonl", "\n")
    (shell.directory / "latin.jsonl").write_bytes('{"org": "é"}'.encode("latin-1"))
    shell.file("bad.toml", "[org.acme]\nwait = 3\n")
    shell.file("ok.toml", "slots = 3\n")
    assert said in shell.refused("simulate", *arguments.split(), code=2)


# The live database


def finish(stage: Stage, limit: int, cost_us: int) -> None:
    """Claim up to `limit` tasks that will have run for `cost_us`, and end them."""
    claims = claim(stage.db, limit)
    stage.do("update orchestrator.task_queue set claimed_at = claimed_at - interval '1 hour'")
    ended = [e._replace(cost_us=cost_us) for e in endings(claims, AttemptStatus.SUCCEEDED)]
    run(stage.db, store_queue.finish(1, ended, worker="test"))


def test_the_current_policy_is_what_is_in_force(dsn: str, tmp_path: Path, stage: Stage) -> None:
    stage.set_org("noisy", tier="free", weight=3, burst_max=1)
    with stage.db.transaction():
        run(stage.db, orgs.set_queue("default", policy=Policy.STRICT, actor="test"))
    shell = Shell(dsn, tmp_path)
    shell.file("trace.jsonl", jsonl(SLOTS, *[arrival(0, "noisy")] * 9, arrival(1, "quiet")))
    found = simulated(shell, "trace.jsonl", "--set", "queue.policy=weighted")
    rules = [found["policies"][name]["rule"] for name in ("current", "proposed")]
    assert rules == ["strict", "weighted"]
    noisy = found["orgs"]["noisy"]["current"]
    assert (noisy["tier"], noisy["weight"], noisy["in_flight_peak"]) == ("free", 3, 1)
    refused = shell.refused("simulate", "trace.jsonl", "--queue", "nope", code=1)
    assert "no queue 'nope'" in refused


def test_history_is_simulated_and_exported_as_the_same_trace(
    dsn: str, tmp_path: Path, stage: Stage
) -> None:
    leader = stage.leader()
    stage.enqueue(40, "acme")
    stage.enqueue(5, "quiet", workload="api", priority=8, critical=True)
    leader.drain_ticks()
    for _ in range(20):
        finish(stage, 2, 250_000)
        leader.drain_ticks()
    shell = Shell(dsn, tmp_path)
    shell.file("proposed.toml", "[org.acme]\nburst_max = 1\n")
    options = ("--policy", "proposed.toml", "--slots", "4")
    live = simulated(shell, "--from-history", "24h", *options, "--export", "trace.jsonl")
    assert live["trace"]["from"] == "the last 24h of queue default"
    assert (live["trace"]["tasks"], live["trace"]["estimated"]) == (45, 5)
    assert live["trace"]["critical"] == 5
    assert live["orgs"]["acme"]["proposed.toml"]["in_flight_peak"] == 1
    lines = (tmp_path / "trace.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"slots": 4}
    assert len(lines) == 46
    assert sum(json.loads(line).get("critical", False) for line in lines) == 5
    again = simulated(shell, "trace.jsonl", "--policy", "proposed.toml")
    assert again["policies"] == live["policies"]
    assert again["orgs"] == live["orgs"]


def test_a_history_in_which_nothing_happened_is_refused(dsn: str, tmp_path: Path) -> None:
    said = Shell(dsn, tmp_path).refused("simulate", "--from-history", "24h", code=2)
    assert "nothing arrived in queue 'default'" in said
    assert "--from-history more time" in said
