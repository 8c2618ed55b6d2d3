"""The payload of a notification that work became claimable: whom it is for.

Backend pids of listening sessions, or nothing for everybody. It says only who of the workers should
look; whoever else listens takes every notification for his own. A payload that reads otherwise, of
a version to come, is for everybody, too.
"""

from __future__ import annotations

from collections.abc import Iterable


def summons(pids: Iterable[int]) -> str:
    """Return the payload that is for the sessions with these backends; for everybody if none."""
    return ",".join(map(str, pids))


def summoned(payload: str, pid: int | None) -> bool:
    """Tell whether a payload is for the session with this backend; None does not know its own."""
    names = payload.split(",")
    return pid is None or str(pid) in names or not all(name.isdecimal() for name in names)
