"""Become another account, tie one's life to the parent's, then become the program.

Run by file path in the server's place, before it is the server: `launch.py MODE PROGRAM ARG…`.
Standard library only, because the interpreter starts it without site-packages. MODE is `self`
(stay who one is), `user:UID:GID` (drop to that account), or `namespace:UID` (enter a user namespace
where one's own id reads as UID: files still belong to oneself, and no privilege is needed or kept).
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


def main(mode: str, *command: str) -> None:
    """Replace this process by `command`, run as `mode` says."""
    kind, *ids = mode.split(":")
    if kind == "user":
        uid, gid = map(int, ids)
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    elif kind == "namespace":
        enter_namespace(int(ids[0]))
    # After the account, because the kernel forgets the request when the account changes.
    _end_with_parent()
    os.execv(command[0], command)


def enter_namespace(uid: int) -> None:
    """Enter a user namespace where this process's own id reads as `uid`, else raise OSError."""
    own_uid, own_gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "user namespaces are not allowed here")
    # The kernel lets an unprivileged process map its own group only once it gave up setgroups.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{uid} {own_gid} 1")
    Path("/proc/self/uid_map").write_text(f"{uid} {own_uid} 1")


def _end_with_parent() -> None:
    """Ask for SIGINT (PostgreSQL's fast shutdown) when the parent dies; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT))


if __name__ == "__main__":
    main(*sys.argv[1:])
