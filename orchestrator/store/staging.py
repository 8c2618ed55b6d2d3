"""Enqueue: specs in, live tasks out, in one statement for any number of items of one queue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.errors import (
    DatabaseUnavailable,
    IdempotencyConflict,
    UnknownQueue,
    UnknownWorkload,
)
from orchestrator.model import DEPTH_MAX, Enqueued, TaskSpec
from orchestrator.store.names import doze_sequence, staged_channel
from orchestrator.store.sql import Operation, Statements

SQL = Statements("staging")

# A key met and gone again means its task ended in between; each round inserts or finds, so more
# than a few rounds mean that tasks of this very key end as fast as we look.
_ROUNDS_MAX = 10


def enqueue(queue: int, specs: Sequence[TaskSpec], payloads: Sequence[str]) -> Operation:
    """Stage `specs` (all of queue `queue`) with their encoded payloads; return `list[Enqueued]`.

    Atomic only inside a transaction of the caller where keys are used: raises
    `IdempotencyConflict` after the statement that stored the other items.
    """
    digests = [
        digest(spec, text) if spec.idempotency_key else None
        for spec, text in zip(specs, payloads, strict=True)
    ]
    found: dict[int, Enqueued] = {}
    pending = list(range(len(specs)))
    for _ in range(_ROUNDS_MAX):
        rows = yield SQL.call("enqueue", **_columns(queue, specs, payloads, digests, pending))
        for position, task_id, created, _ in rows:
            if created:
                found[position] = Enqueued(task_id, True)
        pending = [position for position in pending if position not in found]
        if not pending:
            return [found[position] for position in range(len(specs))]
        held = yield SQL.call(
            "holders",
            queue=queue,
            ord=pending,
            org=[specs[position].org for position in pending],
            key=[specs[position].idempotency_key for position in pending],
        )
        for position, task_id, stored in held:
            if bytes(stored) != digests[position]:
                raise _conflict(specs[position], task_id)
            found[position] = Enqueued(task_id, False)
        pending = [position for position in pending if position not in found]
        if not pending:
            return [found[position] for position in range(len(specs))]
    raise DatabaseUnavailable(
        "the idempotency keys kept changing hands; enqueue again once the tasks that hold them end"
    )


def depth(queue: int, org: str) -> Operation:
    """Count the staged tasks of `org`, up to `DEPTH_MAX`."""
    rows = yield SQL.call("depth", queue=queue, org=org, most=DEPTH_MAX)
    return rows[0][0]


def queue_id(name: str) -> Operation:
    """Return the id of the queue `name`; raise `UnknownQueue`."""
    rows = yield SQL.call("queue_id", name=name)
    if not rows:
        raise UnknownQueue(f"no queue {name!r}: create it with `orchestrator queue set {name}`")
    return rows[0][0]


def check_workload(name: str) -> Operation:
    """Return nothing; raise `UnknownWorkload` where no workload has this name."""
    rows = yield SQL.call("workload_known", name=name)
    if not rows:
        raise UnknownWorkload(
            f"no workload {name!r}: create it with `orchestrator workload set {name} --share N`"
        )


def digest(spec: TaskSpec, payload: str) -> bytes:
    """Return what tells the same request from another one under the same key.

    The work itself counts (name, workload, payload), not when it runs or how often it is tried:
    a caller that computes `run_at` anew on a retry still means the same request.
    """
    canonical = json.dumps(json.loads(payload), sort_keys=True, separators=(",", ":"))
    text = json.dumps([spec.name, spec.workload, canonical])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _conflict(spec: TaskSpec, task_id: int) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"idempotency key {spec.idempotency_key!r} of org {spec.org!r} belongs to the unfinished "
        f"task {task_id} with another name, workload or payload: use another key"
    )


def _columns(
    queue: int,
    specs: Sequence[TaskSpec],
    payloads: Sequence[str],
    digests: Sequence[bytes | None],
    chosen: Sequence[int],
) -> Mapping[str, Any]:
    picked = [specs[position] for position in chosen]
    return {
        "queue": queue,
        "ord": list(chosen),
        "org": [spec.org for spec in picked],
        "workload": [spec.workload for spec in picked],
        "priority": [spec.priority for spec in picked],
        "name": [spec.name for spec in picked],
        "payload": [payloads[position] for position in chosen],
        "max_attempts": [spec.max_attempts for spec in picked],
        "timeout_s": [spec.timeout_s for spec in picked],
        "run_at": [spec.run_at for spec in picked],
        "delay_s": [spec.delay for spec in picked],
        "expires_at": [spec.expires_at for spec in picked],
        "key": [spec.idempotency_key for spec in picked],
        "digest": [digests[position] for position in chosen],
        "headers": [json.dumps(dict(spec.headers)) if spec.headers else None for spec in picked],
        "critical": [spec.critical for spec in picked],
        "channel": staged_channel(queue),
        "doze": doze_sequence(queue),
    }
