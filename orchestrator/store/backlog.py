"""How much of an org may wait: `backlog_max`, and what `burst_max` makes wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.model import DEFAULT_TIER, DEPTH_MAX
from orchestrator.store.sql import Operation, Statements

SQL = Statements("backlog")


class Backlog(NamedTuple):
    """What waits of an org in a queue, counted up to its bound; None and nothing without one."""

    org: str
    most: int | None
    waiting: int | None


def bounded() -> Operation:
    """Tell whether any org or tier has a `backlog_max`."""
    rows = yield SQL.call("bounded")
    return rows[0][0]


def backlogs(queue: int, orgs: Sequence[str]) -> Operation:
    """Return the `Backlog` of each of `orgs`: O(backlog_max), never O(backlog)."""
    rows = yield SQL.call("backlogs", queue=queue, orgs=list(orgs), default_tier=DEFAULT_TIER)
    return [Backlog(*row) for row in rows]


def held(queue: int, keys: Sequence[tuple[str, str]]) -> Operation:
    """Return the positions in `keys`, of (org, key), that an unfinished task holds."""
    rows = yield SQL.call(
        "held",
        queue=queue,
        ord=list(range(len(keys))),
        org=[org for org, _ in keys],
        key=[key for _, key in keys],
    )
    return {row[0] for row in rows}


def capped_depth(queue: str, org: str) -> Operation:
    """Count what waits of `org`, up to `DEPTH_MAX`, where it is at its burst_max; else None."""
    rows = yield SQL.call(
        "capped_depth", queue=queue, org=org, most=DEPTH_MAX, default_tier=DEFAULT_TIER
    )
    return rows[0][0] if rows else None
