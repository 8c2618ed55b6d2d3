"""Enqueue: specs in, live tasks out, in one statement for any number of items of one queue."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

from orchestrator.errors import (
    DatabaseUnavailable,
    IdempotencyConflict,
    UnknownQueue,
    UnknownWorkload,
)
from orchestrator.model import DEPTH_MAX, Enqueued, TaskSpec
from orchestrator.store.names import doze_sequence, staged_channel
from orchestrator.store.packed import Int8s, Texts
from orchestrator.store.sql import Call, Operation, Rows, Statements, Stream
from orchestrator.text import shown

SQL = Statements("staging")

# A key met and gone again means its task ended in between; each round inserts or finds, so more
# than a few rounds mean that tasks of this very key end as fast as we look.
_ROUNDS_MAX = 10

_DUE = SQL["enqueue_due"]
_COLUMNS = attrgetter(
    "org",
    "workload",
    "priority",
    "name",
    "max_attempts",
    "timeout_s",
    "run_at",
    "delay",
    "expires_at",
    "expires_in",
    "critical",
)
# Never NULL, and mostly the same for a whole batch: then sent once.
_OFTEN_ALIKE = ("workload", "priority", "name", "max_attempts", "critical")

# The id of a queue, specs of it without keys, and their payloads as JSON.
Chunk = tuple[int, Sequence[TaskSpec], Sequence[str]]


def enqueue(queue: int, specs: Sequence[TaskSpec], payloads: Sequence[str]) -> Operation:
    """Stage `specs` (all of queue `queue`) with their encoded payloads; return `list[Enqueued]`.

    Atomic only inside a transaction of the caller where keys are used: raises
    `IdempotencyConflict` after the statement that stored the other items.
    """
    if len(specs) == 1 and is_simple(specs[0]):
        return [(yield from enqueue_due(queue, specs[0], payloads[0]))]
    if all(spec.idempotency_key is None for spec in specs):
        rows = yield _keyless(queue, specs, payloads)
        return _created(rows)
    digests = [
        digest(spec, text) if spec.idempotency_key else None
        for spec, text in zip(specs, payloads, strict=True)
    ]
    found: dict[int, Enqueued] = {}
    pending = list(range(len(specs)))
    for _ in range(_ROUNDS_MAX):
        rows = yield _keyed(queue, specs, payloads, digests, pending)
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
        for position, task_id, its_digest in held:
            if bytes(its_digest) != digests[position]:
                raise _conflict(specs[position], task_id)
            found[position] = Enqueued(task_id, False)
        pending = [position for position in pending if position not in found]
        if not pending:
            return [found[position] for position in range(len(specs))]
    raise DatabaseUnavailable(
        "the idempotency keys kept changing hands; enqueue again once the tasks that hold them end"
    )


def enqueue_due(queue: int, spec: TaskSpec, payload: str) -> Operation:
    """Stage one task that is simple; return its `Enqueued`."""
    rows = yield _due(queue, spec, payload)
    return Enqueued(rows[0][0], True)


def enqueue_stream(chunks: Iterable[Chunk]) -> Operation:
    """Stage chunks without keys, each made while the server stages the one before it; return a
    `list[Enqueued]` for each. All or none in a transaction of the caller.
    """
    answers = yield Stream(_keyless(*chunk) for chunk in chunks)
    return list(map(_created, answers))


def _created(rows: Rows) -> list[Enqueued]:
    [(ids, _)] = rows
    return [Enqueued(task_id, True) for task_id in ids]


def _keyless(queue: int, specs: Sequence[TaskSpec], payloads: Sequence[str]) -> Call:
    columns = _columns(queue, specs, payloads)
    for name in _OFTEN_ALIKE:
        columns[name] = _once_if_alike(columns[name])
    return SQL.call("enqueue_keyless", **columns)


def _once_if_alike(column: list[Any]) -> list[Any]:
    return type(column)(column[:1]) if column.count(column[0]) == len(column) else column


def is_simple(spec: TaskSpec) -> bool:
    """Tell whether a task is due and has no key: staging it waits for no other transaction."""
    return spec.idempotency_key is None and spec.run_at is None and not spec.delay


def _due(queue: int, spec: TaskSpec, payload: str) -> Call:
    """Return what stages a task that is simple."""
    channel, doze = _waking(queue)
    return Call(
        _DUE,
        {
            "queue": queue,
            "org": spec.org,
            "workload": spec.workload,
            "priority": spec.priority,
            "name": spec.name,
            "payload": payload,
            "max_attempts": spec.max_attempts,
            "timeout_s": spec.timeout_s,
            "expires_at": spec.expires_at,
            "expires_in_s": spec.expires_in,
            "headers": _headers(spec),
            "critical": spec.critical,
            "channel": channel,
            "doze": doze,
        },
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
        f"idempotency key {shown(spec.idempotency_key)} of org {shown(spec.org)} belongs to the "
        f"unfinished task {task_id} with another name, workload or payload: use another key"
    )


def _keyed(
    queue: int,
    specs: Sequence[TaskSpec],
    payloads: Sequence[str],
    digests: Sequence[bytes | None],
    chosen: Sequence[int],
) -> Call:
    if len(chosen) < len(specs):
        specs = [specs[position] for position in chosen]
        payloads = [payloads[position] for position in chosen]
        digests = [digests[position] for position in chosen]
    return SQL.call(
        "enqueue",
        **_columns(queue, specs, payloads),
        ord=Int8s(chosen),
        key=Texts([spec.idempotency_key for spec in specs]),
        digest=list(digests),
    )


def _columns(queue: int, specs: Sequence[TaskSpec], payloads: Sequence[str]) -> dict[str, Any]:
    (
        orgs,
        workloads,
        priorities,
        names,
        max_attempts,
        timeouts_s,
        run_ats,
        delays_s,
        expire_ats,
        expire_ins_s,
        criticals,
    ) = zip(*map(_COLUMNS, specs), strict=True)
    channel, doze = _waking(queue)
    return {
        "queue": queue,
        "org": Texts(orgs),
        "workload": Texts(workloads),
        "priority": Int8s(priorities),
        "name": Texts(names),
        "payload": Texts(payloads),
        "max_attempts": Int8s(max_attempts),
        "timeout_s": _unless_none(list(timeouts_s)),
        "run_at": _unless_none(list(run_ats)),
        "delay_s": _unless_none(list(delays_s)),
        "expires_at": _unless_none(list(expire_ats)),
        "expires_in_s": _unless_none(list(expire_ins_s)),
        "headers": _unless_none(Texts([_headers(spec) for spec in specs])),
        "critical": Int8s(criticals),
        "channel": channel,
        "doze": doze,
    }


def _unless_none(column: list[Any]) -> list[Any] | None:
    """Return a column, or None where no item sets it."""
    return None if column.count(None) == len(column) else column


def _headers(spec: TaskSpec) -> str | None:
    return json.dumps(dict(spec.headers)) if spec.headers else None


@lru_cache
def _waking(queue: int) -> tuple[str, str]:
    return staged_channel(queue), doze_sequence(queue)
