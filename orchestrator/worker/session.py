"""The connection of one of the worker's threads: opened when needed, dropped after any error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus

from orchestrator.errors import ConfigError
from orchestrator.store.encoding import ENCODING
from orchestrator.store.sql import Operation, explained, limit_transactions, run, session_options
from orchestrator.store.wire import Wired

# A server that vanished is noticed after about 15 s, far within the patience of a drain.
_LINK: dict[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
# A claim or an ack takes milliseconds; beyond this, this process was stopped in one.
_TRANSACTION_S_MAX = 60.0


class Session:
    """Runs operations over one connection; after an error the next one connects anew.

    `pooled` means that a transaction pooler may stand between: then nothing is kept in the session,
    neither prepared statements nor settings. The connection listens on `channels`, if there are
    any.
    """

    def __init__(
        self,
        dsn: str,
        name: str,
        *,
        pooled: bool,
        connect_timeout_s: float,
        channels: Sequence[str] = (),
    ) -> None:
        self._dsn = dsn
        self.name = name
        self._pooled = pooled
        self._connect_timeout_s = connect_timeout_s
        self._channels = channels
        self._connection: Connection[Any] | None = None
        self._connecting = False

    def run(self, operation: Operation) -> Any:
        """Run `operation`, each statement its own transaction; return its value."""
        try:
            return run(self._connected(), operation)
        except BaseException:
            self.close()
            raise

    def transact(self, operation: Operation) -> Any:
        """Run `operation` in one transaction; return its value."""
        try:
            connection = self._connected()
            with connection.transaction():
                return run(connection, operation)
        except psycopg.Error as error:
            self.close()
            raise explained(error) from error
        except BaseException:
            self.close()
            raise

    @property
    def asks(self) -> bool:
        """Tell, from any thread, whether it waits for an answer, or for a connection."""
        connection = self._connection
        if connection is None:
            return self._connecting
        return connection.info.transaction_status is TransactionStatus.ACTIVE

    def listen(self) -> int | None:
        """Return the descriptor that can be read when something was notified, None if there is no
        channel; connect if need be.
        """
        return self._connected().fileno() if self._channels else None

    def heard(self) -> list[str]:
        """Return what was notified; raise where the connection was lost."""
        try:
            return [notice.payload for notice in self._connected().notifies(timeout=0)]
        except psycopg.Error as error:
            self.close()
            raise explained(error) from error

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> Connection[Any]:
        if self._connection is None:
            self._connecting = True
            try:
                self._connection = self._connect()
            finally:
                self._connecting = False
        return self._connection

    def _connect(self) -> Connection[Any]:
        kept: dict[str, Any] = {} if self._pooled else {"options": session_options()}
        try:
            kind = Connection if self._pooled else Wired
            connection = kind.connect(
                self._dsn,
                autocommit=True,
                connect_timeout=max(1, round(self._connect_timeout_s)),
                prepare_threshold=None,
                client_encoding=ENCODING,
                application_name=self.name,
                **_LINK,
                **kept,
            )
            if isinstance(connection, Wired):
                connection.lay_wire()
                version = connection.info.server_version
                run(connection, limit_transactions(version, _TRANSACTION_S_MAX))
            for channel in self._channels:
                connection.execute(f"listen {channel}".encode())
            return connection
        except psycopg.Error as error:
            if "unsupported startup parameter" in str(error):
                raise ConfigError(
                    "a connection pooler stands between this worker and the server: set "
                    "worker.listen to false, or give the worker a direct DSN (database.url)"
                ) from error
            raise explained(error) from error
