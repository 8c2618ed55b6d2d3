"""HTTP/1.1 as uvicorn speaks it, with headers bounded in size and time.

uvicorn's fast parser bounds neither: a client could send headers for ever, or never finish them.
Headers that are too large and yet came at once are refused by `limits`.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from orchestrator.config import ServerSettings
from orchestrator.server import problems
from orchestrator.server.problems import Problem


class BoundedProtocol(HttpToolsProtocol):
    """One connection; its class knows the bounds."""

    header_bytes_max = 16 * 1024
    header_timeout_s = 10.0

    @classmethod
    def of(cls, settings: ServerSettings) -> type[BoundedProtocol]:
        """Return the protocol with the bounds of these settings."""
        bounds = {
            "header_bytes_max": settings.header_bytes_max,
            "header_timeout_s": settings.header_timeout_s,
        }
        return type("BoundedProtocol", (cls,), bounds)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Bytes that came before the headers were complete; None while a body or nothing is awaited.
        self._head_bytes: int | None = None
        self._head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._head_done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes as long as the headers are incomplete."""
        cycle: Any = self.cycle  # None before the first request
        if self._head_bytes is None and (cycle is None or cycle.response_complete):
            self._await_head()
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        # Still incomplete: had they ended within `data`, this would be None.
        if self._head_bytes is not None and self._head_bytes > self.header_bytes_max:
            self._refuse(
                431, "headers-too-large", "the headers are too large (server.header_bytes_max)"
            )

    def on_headers_complete(self) -> None:
        """Stop counting; serve the request."""
        self._head_done()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.header_timeout_s, self._head_late)

    def _head_done(self) -> None:
        self._head_bytes = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._refuse(408, "header-timeout", "the headers came too slowly (server.header_timeout_s)")

    def _refuse(self, status: int, name: str, detail: str) -> None:
        self._head_done()
        if self.transport.is_closing():
            return
        response = problems.answer(Problem(status, name, detail))
        lines = [f"HTTP/1.1 {status} {name}".encode(), b"connection: close"]
        lines += [key + b": " + value for key, value in response.raw_headers]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body))
        self.transport.close()
