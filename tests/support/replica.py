"""A replica on a thread, or in a process of its own, so that a test can stop, resume or kill it.

`python -m tests.support.replica DSN HOLDER SETTINGS`, SETTINGS being those of the leader as JSON.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from orchestrator.config import LeaderSettings, Settings
from orchestrator.leader.replica import Replica
from tests.support.waiting import PATIENCE_S

_ROOT = Path(__file__).parents[2]
_STOP_S = 20.0


@contextmanager
def replica_thread(dsn: str, settings: Settings, *, holder: str | None = None) -> Iterator[Replica]:
    """Run a replica on a thread of this process until the block ends."""
    replica = Replica(dsn, settings, holder=holder)
    thread = threading.Thread(target=replica.run, name="replica")
    thread.start()
    try:
        yield replica
    finally:
        with contextlib.suppress(OSError):  # it may have stopped before it could be woken
            replica.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@contextmanager
def replica_process(
    dsn: str, holder: str, settings: Mapping[str, float]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a replica in its own process; make sure that it is gone afterwards."""
    command = [sys.executable, "-m", "tests.support.replica", dsn, holder, json.dumps(settings)]
    process = subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(_STOP_S)
        finally:
            process.kill()
            process.wait()


def _main(dsn: str, holder: str, settings: str) -> None:
    leader = LeaderSettings(**json.loads(settings))
    replica = Replica(dsn, Settings(leader=leader), holder=holder)
    signal.signal(signal.SIGTERM, lambda *_: replica.stop())
    replica.run()


if __name__ == "__main__":
    _main(*sys.argv[1:])
