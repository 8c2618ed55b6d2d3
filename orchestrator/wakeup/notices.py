"""What a session was notified of, taken straight from libpq.

The driver's own generator costs a context, a clock and a wait for each look, and a look comes first
whenever somebody is woken: there it is a twentieth of a millisecond before anything is done.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection, Notify


class Notices:
    """The payloads that one connection was sent; its only reader."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._pgconn = connection.pgconn
        self._came: list[str] = []
        # Those that come with the answer to a statement are told to this handler.
        connection.add_notify_handler(self._note)

    def take(self) -> list[str]:
        """Return what came since the last time, without waiting; raise the driver's error where the
        connection is lost.
        """
        self._pgconn.consume_input()
        while (notice := self._pgconn.notifies()) is not None:
            self._came.append(notice.extra.decode())
        came, self._came = self._came, []
        return came

    def _note(self, notice: Notify) -> None:
        self._came.append(notice.payload)
