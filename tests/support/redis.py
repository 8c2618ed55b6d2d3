"""A real Redis on a Unix socket, that a test can pause, flush and kill."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from orchestrator.config import RedisSettings
from tests.support.waiting import until

BINARY = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(BINARY is None, reason="needs redis-server (Debian: redis-server)")


class RedisServer:
    """One redis-server process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = directory / "s"
        self.url = f"unix://{self._socket}"
        self.client: Any = redis.Redis.from_url(self.url)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty, and return once it answers."""
        assert BINARY is not None
        command = [BINARY, "--port", "0", "--unixsocket", str(self._socket), "--save", ""]
        command += ["--appendonly", "no", "--dir", str(self._directory)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(self._answers, "Redis answers")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self.client.connection_pool.disconnect()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._socket.unlink(missing_ok=True)

    def close(self) -> None:
        """End it, paused or not."""
        if self._process is not None:
            self.signal(signal.SIGCONT)
        self.kill()
        self.client.close()

    def settings(self, **others: Any) -> RedisSettings:
        """Return the settings that name it."""
        return RedisSettings(url=self.url, **others)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Run a Redis until the block ends."""
    # Short: the name of a socket has a hundred characters.
    with tempfile.TemporaryDirectory(prefix="orch-redis-") as directory:
        server = RedisServer(Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.close()
