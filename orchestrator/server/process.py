"""The server as a child process of the replica, and who looks after it.

A process of its own, because the leader's ticks must not wait for the interpreter's lock while
requests are served. The parent owns the listening socket: an address in use is said at once, and
while a child that died is replaced, connections wait instead of being refused. The leader depends
on nothing here. The child ends when its parent does, however that ends: it reads its settings from
a pipe whose end it then notices.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

import structlog

from orchestrator.config import Settings, parse_address
from orchestrator.errors import ConfigError
from orchestrator.telemetry.relay import Relay

log = structlog.get_logger()

_BACKLOG = 1024
_BACKOFF_MIN_S, _BACKOFF_MAX_S = 0.2, 10.0
# One that served this long died of something new.
_STABLE_S = 30.0
# Past the child's own limit; then it is killed.
_GRACE_S = 3.0

MISSING = "the HTTP API needs more libraries: pip install 'orchestrator[server]'"


def demand_libraries() -> None:
    """Return if what the server needs is installed; raise `ConfigError` if not."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(MISSING) from error


class ServerProcess:
    """The child process that serves HTTP, started again whenever it dies."""

    def __init__(self, address: str, dsn: str, settings: Settings) -> None:
        """Take the address; raise `ConfigError` where it cannot be had."""
        self._socket = _bound(address)
        # What the child counts, for the monitor of this process.
        self.relay = Relay()
        self._dsn = dsn
        self._settings = settings
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name="server", daemon=True)

    @property
    def url(self) -> str:
        """Return where it serves."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def pid(self) -> int | None:
        """Return the process id of the child that serves now."""
        child = self._child
        return None if child is None else child.pid

    def start(self) -> None:
        """Start the child, and looking after it."""
        self._thread.start()

    def stop(self) -> None:
        """Let requests under way finish for a while, then end the child."""
        self._stopping.set()
        with self._lock:
            child = self._child
            if child is not None:
                child.terminate()
        self._socket.close()
        self.relay.close()
        if child is None:
            return
        try:
            child.wait(self._settings.server.drain_timeout_s + _GRACE_S)
        except subprocess.TimeoutExpired:
            log.warning("server.killed", pid=child.pid)
            child.kill()
        self._thread.join()

    def _look_after(self) -> None:
        backoff_s = _BACKOFF_MIN_S
        while not self._stopping.is_set():
            began = time.monotonic()
            child = self._spawn()
            if child is None:
                return
            code = child.wait()
            if child.stdin is not None:
                child.stdin.close()
            if self._stopping.is_set():
                return
            if time.monotonic() - began >= _STABLE_S:
                backoff_s = _BACKOFF_MIN_S
            log.error("server.died", code=code, again_in_s=backoff_s)
            self._stopping.wait(backoff_s)
            backoff_s = min(2 * backoff_s, _BACKOFF_MAX_S)

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            with self.relay.renew() as theirs:
                inherited = [self._socket.fileno(), theirs.fileno()]
                self._child = child = subprocess.Popen(
                    [sys.executable, "-m", "orchestrator.server.child", *map(str, inherited)],
                    stdin=subprocess.PIPE,
                    pass_fds=inherited,
                    # Ctrl-C is the parent's to handle: it lets the child drain.
                    start_new_session=True,
                )
        # Not by the command line, where everybody reads the DSN.
        database = self._settings.database.model_copy(update={"url": self._dsn})
        given = self._settings.model_copy(update={"database": database})
        try:
            assert child.stdin is not None
            child.stdin.write(given.model_dump_json().encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            pass  # it died at once, which its exit tells
        return child


def _bound(address: str) -> socket.socket:
    host, port = parse_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot serve on {address}: {error.strerror or error}") from error
