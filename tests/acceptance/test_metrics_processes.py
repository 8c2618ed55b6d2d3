"""`--metrics` of real processes: what probes and a scrape are told, and that promtool agrees."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.telemetry.metrics import CATALOGUE
from tests.acceptance.cli import Shell
from tests.acceptance.test_cli_processes import WORKSHOP, Staying, staying
from tests.support.waiting import until

PROMTOOL = shutil.which("promtool")
LISTEN = ("--metrics", "127.0.0.1:0")


@pytest.fixture
def shell(dsn: str, tmp_path: Path) -> Shell:
    return Shell(dsn, tmp_path)


def monitor(process: Staying) -> httpx.Client:
    """Return a client of the address at which a process listens for its monitor."""
    until(lambda: process.said("metrics.listening"), "it listens", patience_s=60)
    said = next(line for line in process.lines if "metrics.listening" in line)
    return httpx.Client(base_url=f"http://127.0.0.1:{json.loads(said)['port']}", timeout=30)


def is_ok(client: httpx.Client, path: str) -> bool:
    return client.get(path).status_code == 200


def series(text: str) -> set[str]:
    return {
        sample.name for family in text_string_to_metric_families(text) for sample in family.samples
    }


def shows(client: httpx.Client, pattern: str) -> str:
    """Return the exposition once a line of it matches, else nothing."""
    text = client.get("/metrics").text
    return text if re.search(pattern, text, re.MULTILINE) else ""


def test_processes_tell_a_monitor_how_they_are(shell: Shell) -> None:
    token = shell("token", "create", "shop", "--scope", "producer").out.strip()
    shell.environment["ORCHESTRATOR_METRICS_INTERVAL_S"] = "1s"
    with (
        staying(shell, "run", "--http", "127.0.0.1:0", *LISTEN) as leader,
        staying(shell, "worker", WORKSHOP, *LISTEN) as worker,
        monitor(leader) as of_leader,
        monitor(worker) as of_worker,
    ):
        until(partial(shows, of_leader, r'^orchestrator_leader\{queue="default"\} 1'), "it leads")
        for client in (of_leader, of_worker):
            until(partial(is_ok, client, "/readyz"), "each is ready")
            assert client.get("/livez").text == "ok\n"
        url = re.search(r"http://[\d.:]+", "\n".join(leader.lines))
        assert url
        with httpx.Client(
            base_url=url[0], headers={"Authorization": f"Bearer {token}"}, timeout=60
        ) as api:
            task = {"name": "greet", "org": "acme", "payload": 1}
            made = api.post("/v1/tasks", json=task)
            assert made.status_code == 201
            assert api.get(made.headers["location"]).status_code == 200
            assert api.get("/v1/tasks/999999").status_code == 404
        counted = until(
            partial(
                shows,
                of_leader,
                r'^orchestrator_http_requests_total\{method="GET",route="/v1/tasks/\{\w+\}",'
                r'status="404"\} 1',
            ),
            "the child's requests are on the listener of its parent",
        )
        assert "orchestrator_staged_tasks" in until(
            partial(shows, of_leader, "^orchestrator_staged_tasks"), "figures are shown"
        )
        assert str(shell.dsn) not in counted
        worked = until(
            partial(shows, of_worker, r'^orchestrator_claims_total\{queue="default"\} [1-9]'),
            "the worker has claimed it",
        )
        known = {
            metric.name + end for metric in CATALOGUE for end in ("", "_bucket", "_count", "_sum")
        }
        for text in (counted, worked):
            ours = {name for name in series(text) if name.startswith("orchestrator_")}
            assert ours <= known
            assert "process_resident_memory_bytes" in series(text)
            if PROMTOOL is not None:
                checked = subprocess.run(
                    [PROMTOOL, "check", "metrics"],
                    input=text,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                # It says what it finds with a 0 as well.
                assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_what_is_no_address_is_refused(shell: Shell) -> None:
    assert "give HOST:PORT" in shell.refused("run", "--metrics", "9090", code=2)
