"""How long an org that comes late waits while another one's backlog is worked off at full speed."""

from __future__ import annotations

from benchmarks.stage import QUEUE, Stage, stage, wait_for
from orchestrator.model import TaskSpec
from orchestrator.store import report
from orchestrator.store.report import Lifecycle
from orchestrator.store.sql import run as drive

BACKLOG = 50_000
NEWCOMERS = 10
ROUNDS = 5


def run(quick: bool) -> dict[str, object]:
    """Return the newcomer's dwell and its position, the worst over some rounds."""
    backlog = BACKLOG // (10 if quick else 1)
    with stage() as on:
        on.start_replica()
        on.start_worker()
        wait_for(lambda: _leads(on.connection), "a leader")
        on.client.enqueue_many(_tasks("noisy", backlog))
        staged: list[list[int]] = []
        for number in range(ROUNDS):
            _wait_for_ended(on, (number + 1) * backlog // (ROUNDS + 2))
            staged.append(
                [e.id for e in on.client.enqueue_many(_tasks(f"late{number}", NEWCOMERS))]
            )
        _wait_for_ended(on, backlog + ROUNDS * NEWCOMERS)
        lifecycles: list[Lifecycle] = drive(on.connection, report.lifecycles(QUEUE))
    dwells = [_dwell(lifecycles, f"late{number}") for number in range(ROUNDS)]
    ahead = [_ahead(lifecycles, f"late{number}") for number in range(ROUNDS)]
    return {
        "backlog_tasks": backlog,
        "newcomer_last_dwell_s": [round(dwell, 4) for dwell in dwells],
        "newcomer_last_dwell_max_s": round(max(dwells), 4),
        "tasks_started_before_its_last": ahead,
    }


def _wait_for_ended(on: Stage, tasks: int) -> None:
    wait_for(lambda: on.ended() >= tasks, f"{tasks} tasks to end", 300)


def _tasks(org: str, count: int) -> list[TaskSpec]:
    return [TaskSpec(name="noop", org=org) for _ in range(count)]


def _leads(connection: object) -> bool:
    from orchestrator.store import leadership

    return bool(drive(connection, leadership.leaders())[0].alive)  # type: ignore[arg-type]


def _dwell(lifecycles: list[Lifecycle], org: str) -> float:
    """Return how long the org's last task waited until it ended."""
    return max(task.ended_at - task.enqueued_at for task in lifecycles if task.org == org)


def _ahead(lifecycles: list[Lifecycle], org: str) -> int:
    """Return how many tasks of others started between the org's arrival and its last start."""
    mine = [task for task in lifecycles if task.org == org]
    arrived, last = min(t.enqueued_at for t in mine), max(t.started_at for t in mine)
    return sum(arrived < task.started_at <= last for task in lifecycles if task.org != org)
