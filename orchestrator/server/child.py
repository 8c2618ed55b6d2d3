"""The process that serves, as `process` starts it: settings come on standard input, the sockets
are inherited: the one that listens, and the one over which the parent asks for metrics.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

import uvicorn
from fastapi import FastAPI

from orchestrator import log
from orchestrator.config import Settings
from orchestrator.server.app import create_app
from orchestrator.server.protocol import BoundedProtocol
from orchestrator.telemetry import relay

# Longer than a proxy keeps an idle connection, so that none is closed just as it is used.
_KEEP_ALIVE_S = 75
_GRACE_S = 2.0


def main() -> None:
    """Serve until told to end, or until the parent is gone."""
    settings = Settings.model_validate_json(_line())
    log.configure(settings.log)
    relay.serve(socket.socket(fileno=int(sys.argv[2])))
    server = Server(config(settings))
    threading.Thread(target=_end_with_parent, args=(server, settings), daemon=True).start()
    server.run([socket.socket(fileno=int(sys.argv[1]))])


class Server(uvicorn.Server):
    """uvicorn's server, which lets long polls and streams go instead of waiting for them."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer who waits, then end as ever."""
        app = self.config.app
        assert isinstance(app, FastAPI)
        app.state.services.hub.drain()
        app.state.dashboard.drain()
        await super().shutdown(sockets)


def config(settings: Settings) -> uvicorn.Config:
    """Return how uvicorn serves the app."""
    return uvicorn.Config(
        create_app(settings),
        http=BoundedProtocol.of(settings.server),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.server.drain_timeout_s)),
    )


def _line() -> bytes:
    """Read one line of standard input and nothing beyond it."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return bytes(line)


def _end_with_parent(server: uvicorn.Server, settings: Settings) -> None:
    while os.read(0, 4096):
        pass
    server.should_exit = True
    time.sleep(settings.server.drain_timeout_s + _GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    main()
