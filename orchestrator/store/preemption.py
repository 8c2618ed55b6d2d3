"""The statements of preemption: who waits, who runs, who is told to yield."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from orchestrator.fairness.preemption import Requests, Running
from orchestrator.store.names import control_channel
from orchestrator.store.packed import Int8s
from orchestrator.store.sql import Operation, Statements

SQL = Statements("preemption")

# Where a critical task waits in staging: above those that the age bound lifted.
CRITICAL = -12
# No statement of a load is near its timeout.
_FLOWS_CHUNK = 500
# How far the critical tasks of a flow are counted: more is learnt once those are admitted.
_COUNT_MAX = 1_000
# One look costs some milliseconds at the most; more than this is looked at over several.
_LEASES_MAX = 200
_KEYS_MAX = 1_000


class Wanted(NamedTuple):
    """A flow whose critical tasks are asked for, up to `most`."""

    org: str
    workload: str
    most: int


def critical_flows(queue: int, counted: str) -> Operation:
    """Return [(org, workload, its staged critical tasks, counted up to a bound)], from the
    tables: those of which the feed up to the snapshot `counted` has told.
    """
    found: list[tuple[str, str, int]] = []
    after = ("", "")
    while True:
        chunk = yield SQL.call(
            "critical_flows",
            queue=queue,
            after_org=after[0],
            after_workload=after[1],
            counted=counted,
            limit=_FLOWS_CHUNK,
            most=_COUNT_MAX,
        )
        found += chunk
        if len(chunk) < _FLOWS_CHUNK:
            return found
        after = chunk[-1][:2]


def count_critical(queue: int, flows: Sequence[tuple[str, str]], counted: str) -> Operation:
    """Return [(org, workload, its staged critical tasks)] of `flows`, as `critical_flows` does."""
    return (
        yield SQL.call(
            "count_critical",
            queue=queue,
            orgs=[org for org, _ in flows],
            workloads=[workload for _, workload in flows],
            counted=counted,
            most=_COUNT_MAX,
        )
    )


def waiting(queue: int, flows: Sequence[Wanted]) -> Operation:
    """Return {(org, workload): the priorities of its critical tasks that wait, in their order}."""
    rows = yield SQL.call(
        "waiting",
        queue=queue,
        orgs=[flow.org for flow in flows],
        workloads=[flow.workload for flow in flows],
        mosts=Int8s(flow.most for flow in flows),
    )
    found: dict[tuple[str, str], list[int]] = {(flow.org, flow.workload): [] for flow in flows}
    for org, workload, priority in rows:
        found[org, workload].append(priority)
    return found


def running(queue: int, orgs: Sequence[str], after: UUID) -> Operation:
    """Return (last lease looked at, `Running` tasks of `orgs`) of the next leases after one.

    The lease is None where there was none after `after`.
    """
    rows = yield SQL.call(
        "running",
        queue=queue,
        orgs=list(orgs),
        after=after,
        leases_max=_LEASES_MAX,
        keys_max=_KEYS_MAX,
    )
    return rows[0][0], [Running(*row[1:]) for row in rows if row[1] is not None]


def asked_orgs(queue: int) -> Operation:
    """Return the orgs of which running tasks are asked to yield."""
    rows = yield SQL.call("asked_orgs", queue=queue)
    return {row[0] for row in rows}


def tell(queue: int, said: Requests) -> Operation:
    """Leave word in the leases of running tasks; return how many leases were told."""
    tasks = [*said.ask, *said.withdraw]
    rows = yield SQL.call(
        "tell",
        queue=queue,
        claims=[task.claim_id for task in tasks],
        keys=Int8s(task.dispatch_key for task in tasks),
        asks=Int8s([1] * len(said.ask) + [0] * len(said.withdraw)),
        control=control_channel(queue),
    )
    return len(rows)
