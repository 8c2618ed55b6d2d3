"""A private PostgreSQL: throw-away for demos and tests, persistent for `--embedded`.

A server is run by a *supervisor*, a small process in a session of its own, which Ctrl-C in the
terminal does not reach. Its *users* are connections to it over Unix sockets. The kernel closes them
when a user dies, however it dies, so that the supervisor always learns of the last one leaving; it
then stops the server, removes what was throw-away, and only then lets its own end of the socket go.
So leaving means: say so, and wait for the other end to close.

The server listens on a Unix socket in a directory with mode 0700, never on TCP; who may enter the
directory may use the database. It never runs as root: see `account`.
"""

from orchestrator.embedded.account import Account
from orchestrator.embedded.binaries import find_binaries
from orchestrator.embedded.servers import default_data_dir, persistent, throwaway

__all__ = ["Account", "default_data_dir", "find_binaries", "persistent", "throwaway"]
