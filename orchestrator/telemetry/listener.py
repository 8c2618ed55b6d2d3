"""The listener of one process: `/metrics`, `/livez`, `/readyz`, and nothing else.

Small on purpose, and of the standard library: probes must work in every process, with no extra
installed, and be answered while everything else is busy. What it serves is in memory; a request
costs the database nothing.

An address that cannot be had is no reason to stop working: it is logged, and tried again, because
the usual reason is a predecessor that is about to end.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog
from prometheus_client import REGISTRY as PROCESS_REGISTRY
from prometheus_client import Metric
from prometheus_client.exposition import generate_latest

from orchestrator.telemetry.exposition import Merged
from orchestrator.telemetry.health import Health
from orchestrator.telemetry.metrics import REGISTRY

log = structlog.get_logger()

Collect = Callable[[], Iterable[Metric]]
_RETRY_S = 5.0
# How soon it notices that it shall end.
_POLL_S = 0.1
# Of one request: whoever connects and says nothing holds a thread no longer.
_REQUEST_MAX_S = 5.0
# Requests answered at the same time; a few monitors and probes.
_REQUESTS_MAX = 16


class Listener:
    """Serves the health and the metrics of this process, from `start` to `stop`."""

    def __init__(
        self, host: str, port: int, health: Health, *more: Collect, retry_s: float = _RETRY_S
    ) -> None:
        """Prepare to listen; `more` are collected with what this process counts."""
        self._retry_s = retry_s
        self._address = (host, port)
        self._health = health
        self._collects: tuple[Collect, ...] = (PROCESS_REGISTRY.collect, REGISTRY.collect, *more)
        self._stopped = threading.Event()
        self._server: _Server | None = None
        self._retrying: threading.Thread | None = None
        self._serving: threading.Thread | None = None

    @property
    def port(self) -> int | None:
        """The port it listens on, None while it could not be had."""
        return None if self._server is None else self._server.server_address[1]

    def start(self) -> None:
        """Listen; where the address cannot be had, say so and go on trying."""
        if not self._bind(complain=True):
            self._retrying = threading.Thread(target=self._retry, name="metrics", daemon=True)
            self._retrying.start()

    def stop(self) -> None:
        """Listen no more."""
        self._stopped.set()
        if self._retrying is not None:
            self._retrying.join()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        if self._serving is not None:
            self._serving.join()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Return status, content type and body for a path."""
        if path == "/metrics":
            return 200, _METRICS, generate_latest(Merged(self._collects))
        if path == "/livez":
            return _verdict(self._health.live())
        if path == "/readyz":
            return _verdict(self._health.ready())
        return 404, _TEXT, b"here are /metrics, /livez and /readyz\n"

    def _bind(self, *, complain: bool = False) -> bool:
        host, port = self._address
        try:
            self._server = _Server(self)
        except (OSError, OverflowError) as error:
            if complain:
                log.error("metrics.unavailable", address=f"{host}:{port}", error=str(error))
            return False
        self._serving = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True
        )
        self._serving.start()
        log.info("metrics.listening", host=host, port=self.port)
        return True

    def _retry(self) -> None:
        while not self._stopped.wait(self._retry_s):
            if self._bind():
                return

    @property
    def address(self) -> tuple[str, int]:
        """The address that was asked for."""
        return self._address


_TEXT = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


def _verdict(reasons: list[str]) -> tuple[int, str, bytes]:
    text = "\n".join(reasons) or "ok"
    return (503 if reasons else 200), _TEXT, f"{text}\n".encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Threads end by themselves; nobody waits for them.
    block_on_close = False

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.places = threading.BoundedSemaphore(_REQUESTS_MAX)
        host, port = listener.address
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # Without the look-up of our own name that the parent does, which may take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Whoever hung up in the middle; a mistake of ours is told by `_Handler`.
        log.debug("metrics.hung_up")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_MAX_S
    # Neither our version nor Python's.
    server_version, sys_version = "orchestrator", ""

    def do_GET(self) -> None:
        """Answer; a mistake of ours is a 500, never a process that looks dead."""
        try:
            status, kind, body = self.server.listener.answer(self.path.partition("?")[0])
        except Exception:
            log.exception("metrics.failed")
            status, kind, body = 500, _TEXT, b"see the log\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the name the library looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing: probes come every second."""
