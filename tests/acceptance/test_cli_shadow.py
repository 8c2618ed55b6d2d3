"""`shadow`: what is refused, and a candidate from `set` to `clear` beside a replica that runs."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.cli import Shell
from tests.acceptance.test_cli_processes import staying
from tests.support.stepping import ack, claim, connect, enqueue, tasks
from tests.support.waiting import until


@pytest.fixture
def shell(dsn: str, tmp_path: Path) -> Shell:
    return Shell(dsn, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--policy FILE or --set"),
        (["--set", "org:acme.burst_max=0"], "pause the org instead"),
        (["--set", "slots=3"], "a shadow compares admission"),
        (["--set", "queue.kappa=3"], "a shadow compares admission"),
        (["--set", "queue.headroom=2"], "set capacity too"),
        (["--set", "org:acme.tier=gold"], "gold"),
        (["--set", "tier:gold.weight=3"], "no tier 'gold' in use: known are enterprise, free"),
        (["--set", "workload:chat.share=3"], "no workload 'chat' in use: known are api, etl"),
        (["--policy", "nowhere.toml"], "no file nowhere.toml"),
        (["--queue", "nowhere", "--set", "org:a.weight=1"], "no queue 'nowhere'"),
    ],
)
def test_a_candidate_that_makes_no_sense_is_refused(
    shell: Shell, arguments: list[str], said: str
) -> None:
    code = 1 if "--queue" in arguments else 2
    assert said in shell.refused("shadow", "set", *arguments, code=code)
    assert shell("shadow", "show", "--json").json["policy"] is None


def test_a_policy_file_and_settings_are_kept_as_they_will_be_read_again(shell: Shell) -> None:
    policy = """
[queue]
policy = "strict"
headroom = 1.5
capacity = 20

[tier.free]
burst_max = "none"

[workload.api]
express = true
express_max_s = "2s"

[org."strange = name.x"]
tier = "premium"
"""
    file = shell.file("proposed.toml", policy)
    shell("shadow", "set", "--policy", file, "--set", "org:acme.paused=true")
    kept = shell("shadow", "show", "--json").json["policy"]["settings"]
    assert kept == [
        "queue.policy=strict",
        "queue.headroom=1.5",
        "queue.capacity=20",
        "tier:free.burst_max=none",
        "workload:api.express=true",
        "workload:api.express_max_s=2.0",
        "org:strange = name.x.tier=premium",
        "org:acme.paused=true",
    ]
    again = [part for text in kept for part in ("--set", text)]
    assert shell("shadow", "set", *again, "--json").json["policy"]["settings"] == kept


def test_setting_and_clearing_are_audited(shell: Shell) -> None:
    shell("shadow", "set", "--set", "org:acme.weight=9")
    assert "queue default: cleared" in shell("shadow", "clear").out
    assert "nothing was shadowing it" in shell("shadow", "clear").out
    assert shell.dsn is not None
    with psycopg.connect(shell.dsn) as connection:
        rows = connection.execute(
            b"select verb, object, change from orchestrator.audit_log order by id"
        ).fetchall()
    assert rows == [
        ("shadow.set", "default", {"settings": ["org:acme.weight=9"]}),
        ("shadow.clear", "default", {"settings": []}),
    ]
    assert "nothing shadows queue default" in shell("shadow", "show").out


def test_a_candidate_is_compared_while_a_replica_runs(shell: Shell) -> None:
    assert shell.dsn is not None
    with staying(shell, "run") as replica, connect(shell.dsn) as worker:
        for org in ("acme", "globex"):
            # More than one claim a look can end before there is a report.
            enqueue(worker, tasks(6000, org))
        shell("shadow", "set", "--set", "org:acme.weight=20")
        until(lambda: replica.said("shadow.begun"), "the leader has read it")
        assert "no report yet" in shell("shadow", "show").out

        def told() -> dict[str, Any] | None:
            ack(worker, claim(worker, 1))
            found = worker.execute(b"select 1 from orchestrator.shadow_report").fetchone()
            return shell("shadow", "show", "--json").json if found else None

        shown = until(told, "a report")
        assert shown is not None
        assert shown["failure"] is None
        report = shown["report"]
        orgs = {org["name"]: org for org in report["orgs"]}
        assert orgs["acme"]["shadow"] > orgs["acme"]["live"]
        assert orgs["globex"]["shadow"] < orgs["globex"]["live"]
        assert orgs["acme"]["dwell_change_s"] < 0 < orgs["globex"]["dwell_change_s"]
        assert report["moved"] > 0
        assert [tier["name"] for tier in report["tiers"]] == ["standard"]
        text = shell("shadow", "show").out
        assert "org:acme.weight=20" in text
        assert "dwell change" in text

        assert shell("shadow", "clear", "--json").json == {"queue": "default", "cleared": True}
        assert shell("shadow", "show", "--json").json["report"] is None
        assert replica.signalled(signal.SIGTERM) == 0
