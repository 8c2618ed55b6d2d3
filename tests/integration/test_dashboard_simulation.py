"""What the screen Simulate is told by the process that simulates for it, and shows."""

from __future__ import annotations

import json
import subprocess
import sys

from orchestrator.model import AttemptStatus
from orchestrator.server.dashboard.pages import render
from orchestrator.server.dashboard.whatif import Job
from orchestrator.store import queue as store_queue
from orchestrator.store.sql import run
from tests.support.stage import Stage
from tests.support.stepping import claim, endings


def test_the_dwell_of_critical_tasks_is_told_apart(stage: Stage) -> None:
    leader = stage.leader()
    stage.enqueue(3, "acme")
    stage.enqueue(2, "acme", critical=True)
    leader.drain_ticks()
    claims = claim(stage.db, 5)
    stage.do("update orchestrator.task_queue set claimed_at = claimed_at - interval '1 hour'")
    ended = endings(claims, AttemptStatus.SUCCEEDED)
    run(stage.db, store_queue.finish(1, [e._replace(cost_us=250_000) for e in ended], worker="w"))
    question = {"dsn": stage.dsn, "queue": "default", "setting": "org:acme.weight=3"}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.server.dashboard.simulation"],
        input=json.dumps({**question, "window_s": 3600.0}) + "\n",
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])["result"]
    assert (result["tasks"], result["critical"]) == (5, 2)
    for column in result["columns"]:
        assert column["critical"].keys() == column["dwell"].keys()
        assert column["critical"]["p99"] <= column["dwell"]["p99"]
    job = Job("x", {**question, "told": "last hour"}, result=result)
    shown = render("simulation_part.html", job=job, queue="default")
    assert "critical tasks" in shown
    assert "2 tasks" in shown
    # Where there was none, nothing is said of them.
    job.result = {**result, "critical": 0}
    shown = render("simulation_part.html", job=job, queue="default")
    assert "critical" not in shown
