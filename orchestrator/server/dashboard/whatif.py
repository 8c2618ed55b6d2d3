"""Simulations under way and those that ended: one at a time, bounded in time, few kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.server.problems import Problem

TIME_MAX_S = 60.0
_KEPT = 20
_MODULE = "orchestrator.server.dashboard.simulation"
# One line of the child: the result of a dozen orgs is a few kB.
_LINE_MAX = 2**20


@dataclass(slots=True)
class Job:
    """One simulation: what was asked, how far it is, and what came of it."""

    id: str
    asked: Mapping[str, str]
    doing: str = "starting"
    done: int = 0
    total: int | None = None
    result: dict[str, Any] | None = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        """Tell whether there is a result, or a reason why there is none."""
        return self.result is not None or self.error is not None


@dataclass(slots=True)
class Jobs:
    """The simulations of this process."""

    _jobs: OrderedDict[str, Job] = field(default_factory=OrderedDict)
    _running: asyncio.Task[None] | None = None

    def find(self, job_id: str) -> Job:
        """Return a job; raise a 404 `Problem`."""
        found = self._jobs.get(job_id)
        if found is None:
            raise Problem(404, "not-found", "no such simulation here (any more): begin it again")
        return found

    def drain(self) -> None:
        """End the simulation that runs, if one does."""
        if self._running is not None:
            self._running.cancel()

    def begin(self, dsn: str, queue: str, window_s: float, setting: str, told: str) -> Job:
        """Begin a simulation; raise a 503 `Problem` while another one runs."""
        if self._running is not None and not self._running.done():
            raise Problem(503, "busy", "another simulation runs here: try again in a moment")
        job = Job(secrets.token_urlsafe(9), {"queue": queue, "setting": setting, "told": told})
        self._jobs[job.id] = job
        if len(self._jobs) > _KEPT:
            self._jobs.popitem(last=False)
        question = {"dsn": dsn, "queue": queue, "window_s": window_s, "setting": setting}
        self._running = asyncio.create_task(_run(job, json.dumps(question)))
        return job


async def _run(job: Job, question: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        _MODULE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_MAX,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIME_MAX_S):
            process.stdin.write(f"{question}\n".encode())
            await process.stdin.drain()
            async for line in process.stdout:
                _hear(job, json.loads(line))
            await process.wait()
    except TimeoutError:
        job.error = (
            f"it took longer than {TIME_MAX_S:.0f} s and was given up: choose a shorter time, "
            "or use `orchestrator simulate --from-history`, which may take as long as it needs"
        )
    except (ConnectionError, ValueError) as error:
        job.error = f"the simulation broke off: {type(error).__name__}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if not job.ended:
            job.error = "the simulation broke off: the log of this server says more"


def _hear(job: Job, line: Mapping[str, Any]) -> None:
    if "result" in line:
        job.result = line["result"]
    elif "error" in line:
        job.error = line["error"]
    else:
        job.doing, job.done, job.total = line["doing"], line["done"], line["total"]
