"""The alert rules and the dashboard: they name metrics that exist, fire when they should, and are
explained.

The rules are judged by Prometheus's own promtool, on made-up series; one test for each alert shows
what makes it fire, and one that a healthy system makes none of them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.telemetry.metrics import CATALOGUE
from orchestrator.telemetry.reference import rewritten

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "docs" / "alerts.yaml"
DASHBOARD = ROOT / "docs" / "grafana" / "orchestrator.json"
RUNBOOK = ROOT / "docs" / "operations.md"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: prometheus)")

_NAME = re.compile(r"(?<![:\w])orchestrator_\w+")

HEALTHY = {
    'orchestrator_leader{instance="a",queue="q"}': "1x130",
    'orchestrator_leader{instance="b",queue="q"}': "0x130",
    'orchestrator_last_tick_timestamp_seconds{instance="a",queue="q"}': "0+60x130",
    'orchestrator_elections_total{instance="a",queue="q"}': "1x130",
    'orchestrator_fenced_refusals_total{instance="a",queue="q"}': "0x130",
    'orchestrator_loop_failures_total{instance="a",loop="election loop"}': "3x130",
    'orchestrator_tick_duration_seconds_bucket{instance="a",queue="q",le="0.005"}': "0+9000x130",
    'orchestrator_tick_duration_seconds_bucket{instance="a",queue="q",le="1"}': "0+9000x130",
    'orchestrator_tick_duration_seconds_bucket{instance="a",queue="q",le="+Inf"}': "0+9000x130",
    'orchestrator_over_cap_orgs{instance="a",queue="q"}': "0x130",
    'orchestrator_worst_lag_ratio{instance="a",queue="q"}': "0.4x130",
    'orchestrator_starved_orgs{instance="a",queue="q"}': "0x130",
    'orchestrator_oldest_quiet_waiting_seconds{instance="a",queue="q"}': "1x130",
    'orchestrator_oldest_waiting_seconds{instance="a",queue="q"}': "2000x130",
    'orchestrator_staged_tasks{instance="a",queue="q"}': "9000-50x130",
    'orchestrator_ready_tasks{instance="a",queue="q"}': "50x130",
    'orchestrator_lease_overdue_seconds{instance="a",queue="q"}': "0x130",
    'orchestrator_snapshot_timestamp_seconds{instance="a",queue="q"}': "0+60x130",
    'orchestrator_repairs_total{instance="a",queue="q"}': "0x130",
    'orchestrator_reaped_total{instance="a",queue="q"}': "2x130",
    'orchestrator_claims_total{instance="w",queue="q"}': "0+6000x130",
    'orchestrator_retries_total{instance="w",queue="q"}': "0+60x130",
    'orchestrator_dead_letters_total{instance="w",queue="q"}': "4x130",
    'orchestrator_claim_failures_total{instance="w",queue="q"}': "1x130",
    'orchestrator_extend_failures_total{instance="w",queue="q"}': "0x130",
    'orchestrator_chore_failures_total{instance="a",chore="trim_logs"}': "1x130",
    'orchestrator_http_requests_total{instance="a",method="GET",route="/v1",status="200"}': (
        "0+6000x130"
    ),
    'orchestrator_http_requests_total{instance="a",method="GET",route="/v1",status="503"}': (
        "0+1x130"
    ),
    'orchestrator_fastpath_failures_total{instance="a",store="redis"}': "7x130",
}
# What a sick system shows instead, by alert; None: not at all.
SICK: Mapping[str, Mapping[str, str | None]] = {
    "OrchestratorNoLeader": {'orchestrator_leader{instance="a",queue="q"}': "1x60 0x70"},
    "OrchestratorSeveralLeaders": {'orchestrator_leader{instance="b",queue="q"}': "0x60 1x70"},
    "OrchestratorLeaderStalled": {
        'orchestrator_last_tick_timestamp_seconds{instance="a",queue="q"}': "0+60x100 6000x30"
    },
    "OrchestratorElectionsOften": {
        'orchestrator_elections_total{instance="a",queue="q"}': "1x90 2+1x40"
    },
    "OrchestratorFencedRefusals": {
        'orchestrator_fenced_refusals_total{instance="a",queue="q"}': "0x115 1x15"
    },
    "OrchestratorStandingFails": {
        'orchestrator_loop_failures_total{instance="a",loop="election loop"}': "3x60 4+30x70"
    },
    "OrchestratorTicksSlow": {
        'orchestrator_tick_duration_seconds_bucket{instance="a",queue="q",le="0.005"}': "0x130",
    },
    "OrchestratorOverCap": {'orchestrator_over_cap_orgs{instance="a",queue="q"}': "0x117 1 0x12"},
    "OrchestratorFairnessBroken": {
        'orchestrator_worst_lag_ratio{instance="a",queue="q"}': "0.4x119 1.2x11"
    },
    "OrchestratorQuietOrgWaits": {
        'orchestrator_oldest_quiet_waiting_seconds{instance="a",queue="q"}': "1x100 61x30"
    },
    "OrchestratorRepaired": {'orchestrator_repairs_total{instance="a",queue="q"}': "0x100 1x30"},
    "OrchestratorBacklogGrows": {
        'orchestrator_staged_tasks{instance="a",queue="q"}': "9000+50x130"
    },
    "OrchestratorNothingClaimed": {
        'orchestrator_claims_total{instance="w",queue="q"}': "0+6000x100 600000x30"
    },
    "OrchestratorLeasesNotTakenBack": {
        'orchestrator_lease_overdue_seconds{instance="a",queue="q"}': "0x110 31x20"
    },
    "OrchestratorLeasesLost": {'orchestrator_reaped_total{instance="a",queue="q"}': "2+1x130"},
    "OrchestratorRetriesOften": {'orchestrator_retries_total{instance="w",queue="q"}': "0+700x130"},
    "OrchestratorDeadLetters": {
        'orchestrator_dead_letters_total{instance="w",queue="q"}': "4x110 5x20"
    },
    "OrchestratorClaimsFail": {
        'orchestrator_extend_failures_total{instance="w",queue="q"}': "0x100 1+9x30"
    },
    "OrchestratorFiguresMissing": {
        'orchestrator_snapshot_timestamp_seconds{instance="a",queue="q"}': None
    },
    "OrchestratorChoresFail": {
        'orchestrator_chore_failures_total{instance="a",chore="trim_logs"}': "1x110 2+1x20"
    },
    "OrchestratorHttpErrors": {
        'orchestrator_http_requests_total{instance="a",method="GET",route="/v1",status="503"}': (
            "0+70x130"
        )
    },
    "OrchestratorFastpathFails": {
        'orchestrator_fastpath_failures_total{instance="a",store="redis"}': "7x100 8+1x30"
    },
}
# When they are looked at: two hours of history, so that every window is full.
AT = "120m"


def rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        yield from group["rules"]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def exposed() -> set[str]:
    """Return the names of every series there may be."""
    names = set()
    for metric in CATALOGUE:
        ends = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        names |= {metric.name + end for end in ends}
    return names


def queries(value: object) -> Iterator[str]:
    """Yield every expression of a dashboard."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("expr", "query", "definition") and isinstance(inner, str):
                yield inner
            else:
                yield from queries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from queries(inner)


def test_every_metric_that_is_named_exists() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    expressions = [rule["expr"] for rule in rules()]
    shown = list(queries(json.loads(DASHBOARD.read_text())))
    assert len(shown) > 20
    for expression in [*expressions, *shown]:
        assert set(_NAME.findall(expression)) <= exposed(), expression
        for name in re.findall(r"[a-z_]+:\w+:\w+", expression):
            assert name in recorded, expression


def test_every_alert_has_its_entry_in_the_runbook() -> None:
    headings = re.findall(r"^#+ (Alert: .+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted({rule["annotations"]["runbook"] for rule in alerts()})
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"Alert: {rule['alert']}"
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_every_alert_is_shown_to_fire() -> None:
    assert sorted(SICK) == sorted(rule["alert"] for rule in alerts())


def run(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_rules_are_well_formed() -> None:
    run("check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))


# Each sick system is one of its own, told apart by these labels.
_TELL_APART = re.compile(r'(queue|instance|chore|store)="([^"]*)"')
# By which of them an alert is raised, where that is not the queue.
BY = {
    "OrchestratorStandingFails": ("instance", "a"),
    "OrchestratorClaimsFail": ("instance", "w"),
    "OrchestratorChoresFail": ("chore", "trim_logs"),
    "OrchestratorFastpathFails": ("store", "redis"),
    "OrchestratorHttpErrors": None,
}


def case(series: Mapping[str, str | None], expected: list[str]) -> dict[str, Any]:
    """Return a test of promtool: with these series, these alerts fire and no others."""
    return {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": values}
            for name, values in series.items()
            if values is not None
        ],
        "promql_expr_test": [
            {
                "expr": "group by (alertname, queue, instance, chore, store)"
                ' (ALERTS{alertstate="firing"})',
                "eval_time": AT,
                "exp_samples": [{"labels": labels, "value": 1} for labels in expected],
            }
        ],
    }


def sick() -> dict[str, Any]:
    """Return the test in which every alert has a system of its own that it fires for."""
    series: dict[str, str | None] = {}
    expected = []
    for alert, changed in SICK.items():
        for name, values in {**HEALTHY, **changed}.items():
            # Shared by all: only one may be sick, and the others would hide it.
            if "_http_" not in name or alert == "OrchestratorHttpErrors":
                series[_TELL_APART.sub(rf'\1="\2 of {alert}"', name)] = values
        by = BY.get(alert, ("queue", "q"))
        told = f', {by[0]}="{by[1]} of {alert}"' if by else ""
        expected.append(f'{{alertname="{alert}"{told}}}')
    return case(series, expected)


@needs_promtool
def test_each_alert_fires_when_it_should_and_none_while_all_is_well(tmp_path: Path) -> None:
    file = tmp_path / "alerts_test.yaml"
    tests = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [case(HEALTHY, []), sick()],
    }
    file.write_text(yaml.safe_dump(tests))
    run("test", "rules", str(file))


def test_the_reference_says_what_the_code_says() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert page == rewritten(page), "run scripts/metrics_reference.py"
    assert page.count("\n| `orchestrator_") == len(CATALOGUE)
