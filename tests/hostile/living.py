"""What the cases run against, and how they tell that it lives on and that nothing was stored."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from orchestrator import App, Client, OrchestratorError, Task, Worker
from tests.conftest import NIGHTLY
from tests.support.stage import Stage
from tests.support.waiting import until

# How long a task may take after whatever a case did.
CANARY_S = 2.0
# Everything that a verb could have written to; the canary's own rows are taken away first.
_STORED = """
select (select count(*) from orchestrator.task where name <> 'canary'),
       (select count(*) from orchestrator.staging_queue),
       (select count(*) from orchestrator.scheduled_queue),
       (select count(*) from orchestrator.idempotency_key),
       (select count(*) from orchestrator.lease),
       (select count(*) from orchestrator.org_config),
       (select count(*) from orchestrator.audit_log),
       (select count(*) from orchestrator.tier), (select count(*) from orchestrator.workload),
       (select count(*) from orchestrator.queue), (select count(*) from orchestrator.schedule),
       (select count(*) from orchestrator.api_token)"""

APP = App()
# What the handlers saw, by task id.
SEEN: dict[int, tuple[str, Any]] = {}


@APP.task("canary")
def canary(task: Task) -> None:
    """Show that the worker lives."""


@APP.task("keep")
def keep(task: Task) -> None:
    """Keep what came, to be compared with what was sent."""
    SEEN[task.id] = (task.org, task.payload)


@dataclass(frozen=True, slots=True)
class Living:
    """One database with a replica and a worker."""

    stage: Stage
    client: Client
    worker: Worker
    log: io.StringIO  # of the replica, the worker and the server

    def sing(self) -> None:
        """Let a canary task run; it must end soon."""
        # A machine may stall for once. What a case harmed is slow again.
        first = self._canary()
        if first >= CANARY_S:
            second = self._canary()
            assert second < CANARY_S, f"the canary took {first:.1f} s, the next {second:.1f} s"

    def _canary(self) -> float:
        task = self.client.enqueue("canary", org="canary").id
        return until(lambda: self._took(task), f"the canary {task} ends")[0]

    def after_each(self) -> None:
        """Let a canary run after a single value, at night: else once after those of a test."""
        if NIGHTLY:
            self.sing()

    def _took(self, task: int) -> list[float]:
        rows = self.stage.rows(
            "select extract(epoch from a.ended_at - t.created_at)::float8"
            " from orchestrator.task_attempt a join orchestrator.task t on t.id = a.task_id"
            " where a.task_id = %s and a.status = 'succeeded'",
            task,
        )
        return [took for (took,) in rows]

    def stored(self) -> tuple[Any, ...]:
        """Return how many rows there are of everything but canaries."""
        return stored(self.stage)

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """Check that what is done stores nothing, and that a canary ends after it."""
        before = until(lambda: self.stored() if self._idle() else None, "the last canary has gone")
        assert before is not None
        yield
        assert self.stored() == before
        self.sing()

    def _idle(self) -> bool:
        return bool(
            self.stage.one("select not exists (select from orchestrator.lease)")
            and self.stage.one("select not exists (select from orchestrator.task_queue)")
        )


def stored(stage: Stage) -> tuple[Any, ...]:
    """Return how many rows there are of everything but canaries."""
    (row,) = stage.rows(_STORED)
    return row


def refused(call: Callable[[], object], complaint: str) -> None:
    """Check that a call raises one of our errors, in one line that says `complaint`."""
    try:
        answer = call()
    except OrchestratorError as error:
        text = str(error)
        assert complaint in text
        assert len(text) < 2_000
        assert "\n" not in text
        # It can be written anywhere.
        text.encode()
    else:
        raise AssertionError(f"accepted: {answer!r:.200}")
