"""A stand-in for a transaction pooler, as far as a client notices: what it refuses and sees.

It passes bytes on between a client and the server. Like PgBouncer it refuses start-up parameters it
does not know; it notes what a real one could not honour, because it keeps no session for a client.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_KNOWN = {"user", "database", "client_encoding", "application_name"}
_REFUSAL = b"SFATAL\0C08P01\0Munsupported startup parameter: "


class Pooler:
    """Listens on a TCP port of this machine, in front of the server of `dsn`."""

    def __init__(self, dsn: str) -> None:
        known = conninfo_to_dict(dsn)
        self._server = f"{known['host']}/.s.PGSQL.{known.get('port') or 5432}"
        self._door = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = [self._door]
        self.sessions = 0
        self.named_statements: list[bytes] = []
        self.dsn = make_conninfo(
            dsn,
            host="127.0.0.1",
            port=self._door.getsockname()[1],
            sslmode="disable",
            gssencmode="disable",
        )

    def serve(self) -> None:
        """Serve clients, each in threads of its own, until `close`."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._door.accept()
                self._ends.append(client)
                threading.Thread(target=self._attend, args=(client,), daemon=True).start()

    def close(self) -> None:
        """Close every connection."""
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _attend(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, struct.error):
            header = _receive(client, 8)
            (length,) = struct.unpack("!I", header[:4])
            body = _receive(client, length - 8)
            fields = body.rstrip(b"\0").split(b"\0")[::2]
            if unknown := [name for name in fields if name.decode() not in _KNOWN]:
                text = _REFUSAL + unknown[0] + b"\0\0"
                client.sendall(b"E" + struct.pack("!I", len(text) + 4) + text)
                client.close()
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._ends.append(server)
            self.sessions += 1
            server.sendall(header + body)
            threading.Thread(target=_pump, args=(server, client), daemon=True).start()
            self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            head = _receive(client, 5)
            (length,) = struct.unpack("!I", head[1:])
            body = _receive(client, length - 4)
            if head[:1] == b"P" and not body.startswith(b"\0"):
                self.named_statements.append(body[: body.index(b"\0")])
            server.sendall(head + body)


def _receive(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = end.recv(count - len(data))
        if not more:
            raise OSError("the other side hung up")
        data += more
    return data


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextmanager
def pooling(dsn: str) -> Iterator[Pooler]:
    """Run a pooler in front of the server of `dsn`."""
    pooler = Pooler(dsn)
    thread = threading.Thread(target=pooler.serve)
    thread.start()
    try:
        yield pooler
    finally:
        pooler.close()
        thread.join()
