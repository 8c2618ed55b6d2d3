"""What all verbs of a client share: its name, its limits, and the ids it has looked up."""

from __future__ import annotations

import os
import socket
import uuid

from orchestrator.client.backlogs import Backlogs
from orchestrator.client.specs import plain_name
from orchestrator.config import Settings
from orchestrator.errors import OrchestratorError
from orchestrator.store import staging
from orchestrator.store.sql import Operation
from orchestrator.telemetry import tracing


class Common:
    """One process's dealings with one database."""

    def __init__(self, settings: Settings, name: str | None) -> None:
        self._limits = settings.limits
        tracing.configure(settings.tracing)
        self._pid = os.getpid()
        self._closed = False
        # Queues are never renamed and workloads never deleted: a positive answer stays true.
        self._queue_ids: dict[str, int] = {}
        self._workloads: set[str] = set()
        self._backlogs = Backlogs()
        default = f"{socket.gethostname()}:{self._pid}:{uuid.uuid4().hex[:8]}"
        self.name = default if name is None else plain_name("name", name)

    def _check_usable(self) -> None:
        if self._closed:
            raise OrchestratorError("this client is closed: make a new one")
        if self._pid != os.getpid():
            # Two processes on one socket would read each other's answers.
            raise OrchestratorError(
                "this client was made before a fork: make a new one in the child process"
            )

    def _queue_id(self, name: str) -> Operation:
        """Return the id of a queue; raise `UnknownQueue`."""
        found = self._queue_ids.get(name)
        if found is None:
            found = self._queue_ids[name] = yield from staging.queue_id(name)
        return found

    def _check_workload(self, name: str) -> Operation:
        """Raise `UnknownWorkload` unless there is such a workload."""
        if name not in self._workloads:
            yield from staging.check_workload(name)
            self._workloads.add(name)
