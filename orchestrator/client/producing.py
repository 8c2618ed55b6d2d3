"""The producer's verbs: enqueue one task or many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from orchestrator.client.common import Common
from orchestrator.client.gathering import Joint
from orchestrator.client.specs import Ready, all_checked, all_encoded, all_given, numbered, ready
from orchestrator.client.steps import UNKNOWN_OUTCOME, Steps, Work, verb
from orchestrator.errors import OrchestratorError
from orchestrator.model import (
    DEFAULT_QUEUE,
    DEFAULT_WORKLOAD,
    PRIORITY_DEFAULT,
    Enqueued,
    TaskSpec,
    Urgency,
)
from orchestrator.store import staging
from orchestrator.store.sql import Operation
from orchestrator.telemetry import tracing

if TYPE_CHECKING:
    from orchestrator.client.steps import Lender

# Items of one statement: enough that its cost for each item is flat, few enough for the parameters
# of a statement to stay in the megabytes with payloads of usual size.
CHUNK_ITEMS = 5_000
# Fewer where the next statement is made while the server works on this one: it has nothing to do
# before the first, nor we after the last.
STREAM_ITEMS = 1_000

# A longer payload goes by itself: on its way it would hold up all that wait behind it.
JOINT_CHARS_MAX = 16 * 1024

_PLACE = attrgetter("queue", "workload")

_DOUBT = f"{UNKNOWN_OUTCOME}: enqueue again, and give an idempotency_key, which makes that safe"


class Producing(Common):
    """Enqueue tasks."""

    @verb
    def enqueue(
        self,
        name: str,
        payload: Any = None,
        *,
        org: str,
        queue: str = DEFAULT_QUEUE,
        workload: str = DEFAULT_WORKLOAD,
        priority: int = PRIORITY_DEFAULT,
        run_at: datetime | None = None,
        delay: float | None = None,
        expires_at: datetime | None = None,
        expires_in: float | None = None,
        idempotency_key: str | None = None,
        max_attempts: int = 5,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        critical: bool = False,
        urgency: Urgency | str | int | None = None,
        with_depth: bool = False,
        connection: Lender | None = None,
    ) -> Steps[Enqueued]:
        """Stage one task; return its id, and whether this call created it.

        With `connection`, it commits or rolls back with the caller's own work. With an
        `idempotency_key` that an unfinished task of the org holds, that task is returned, or
        `IdempotencyConflict` raised where it is another request. `urgency` is "critical", "task" or
        "info" (100, 50 or 10) instead of a priority (10, 5 or 1); a critical task goes first in its
        org, and may have a running one of it yield. `expires_in` ends what was not claimed that
        many seconds after this call. `with_depth` counts what waits of the org, up to 1,000, where
        it can. Raises `InvalidInput`, `UnknownQueue`, `UnknownWorkload`, `BacklogFull`, and
        `DatabaseUnavailable`, which says so where it is unknown whether the task was stored.
        """
        spec = TaskSpec.of(
            name=name,
            payload=payload,
            org=org,
            queue=queue,
            workload=workload,
            priority=priority,
            run_at=run_at,
            delay=delay,
            expires_at=expires_at,
            idempotency_key=idempotency_key,
            max_attempts=max_attempts,
            timeout_s=timeout_s,
            headers=headers,
            critical=critical,
            urgency=urgency,
            expires_in=expires_in,
        )
        task = ready(spec, self._limits)
        with tracing.producing([task.spec]) as [carrying]:
            task = Ready(carrying, task.payload)
            joint = self._joint(task) if connection is None and not with_depth else None
            if joint is None:
                operation = self._stage(task)
            else:
                # There is nothing that has to be asked first.
                operation = staging.enqueue_due(joint.queue, *task)
            enqueued: Enqueued = yield Work(
                operation=operation, connection=connection, doubt=_DOUBT, joint=joint
            )
        if not with_depth:
            return enqueued
        return (yield from self._counted(enqueued, task.spec, connection))

    def _counted(
        self, enqueued: Enqueued, spec: TaskSpec, connection: Lender | None
    ) -> Steps[Enqueued]:
        """Add how many tasks of the org wait; where they could not be counted, the task is stored
        all the same, and an error would have it enqueued again.
        """
        try:
            depth = yield Work(operation=self._depth(spec), connection=connection)
        except OrchestratorError:
            if connection is not None:
                # The transaction of the caller may have failed with it.
                raise
            return enqueued
        return replace(enqueued, depth=depth)

    @verb
    def enqueue_many(
        self,
        items: Iterable[TaskSpec | Mapping[str, Any]],
        *,
        connection: Lender | None = None,
    ) -> Steps[list[Enqueued]]:
        """Stage many tasks in one transaction, all or none; return their `Enqueued`, in order.

        Items are `TaskSpec`s or mappings with the same keys. An error names the index of its item.
        Raises what `enqueue` raises; nothing is stored then.
        """
        given = all_given(items, self._limits)
        if not given:
            return []
        keyed = any(spec.idempotency_key is not None for spec in given)
        streamed = connection is None and not keyed and len(given) > STREAM_ITEMS
        # Of a stream the first part, before anything is sent; all where spans name what it is.
        checked = STREAM_ITEMS if streamed and not tracing.is_on() else len(given)
        given[:checked] = all_checked(given[:checked], self._limits)
        with tracing.producing(given) as carrying:
            if streamed:
                operation = self._stage_stream(carrying, checked)
                work = Work(operation=operation, atomic=True, doubt=_DOUBT)
            else:
                work = self._staging(carrying, connection, keyed=keyed)
            enqueued: list[Enqueued] = yield work
        return enqueued

    def _staging(
        self, specs: Sequence[TaskSpec], connection: Lender | None, *, keyed: bool
    ) -> Work:
        # Before the transaction: that of the caller goes on after an error.
        payloads = all_encoded(specs, self._limits)
        # One statement is a transaction by itself, two round trips shorter than one that is opened.
        alone = len(specs) <= CHUNK_ITEMS and len({spec.queue for spec in specs}) == 1
        return Work(
            operation=self._stage_all(specs, payloads, keyed=keyed),
            connection=connection,
            atomic=keyed or not alone,
            undone=keyed,
            doubt=_DOUBT,
        )

    def _joint(self, task: Ready) -> Joint | None:
        """Return what the task adds to a shared statement; None where it goes by itself.

        What has to be asked first, of its queue, its workload or a bound, is asked by itself.
        """
        spec = task.spec
        queue = self._queue_ids.get(spec.queue)
        if (
            queue is None
            or spec.workload not in self._workloads
            or not staging.is_simple(spec)
            or len(task.payload) > JOINT_CHARS_MAX
            or not self._backlogs.surely_unbounded()
        ):
            return None
        return Joint(queue, task, len(task.payload), _stage_together)

    def _stage(self, task: Ready) -> Operation:
        spec = task.spec
        queue = yield from self._queue_id(spec.queue)
        yield from self._check_workload(spec.workload)
        if (yield from self._backlogs.bounded()):
            yield from self._backlogs.check(queue, [spec])
        [staged] = yield from staging.enqueue(queue, [spec], [task.payload])
        return staged

    def _depth(self, spec: TaskSpec) -> Operation:
        queue = yield from self._queue_id(spec.queue)
        return (yield from staging.depth(queue, spec.org))

    def _stage_all(
        self, specs: Sequence[TaskSpec], payloads: Sequence[str], *, keyed: bool
    ) -> Operation:
        yield from self._check_places(specs)
        staged: dict[int, Enqueued] = {}
        for queue_id, chunk in self._chunks(specs, CHUNK_ITEMS, keyed=keyed):
            chosen = [specs[index] for index in chunk]
            texts = [payloads[index] for index in chunk]
            found = yield from staging.enqueue(queue_id, chosen, texts)
            staged.update(zip(chunk, found, strict=True))
        return [staged[index] for index in range(len(specs))]

    def _stage_stream(self, given: Sequence[TaskSpec], checked: int) -> Operation:
        """Check and encode a part of the tasks while the server stages the one before it.

        The first `checked` of them are checked. What is invalid undoes all of it. No code of the
        caller's runs in this transaction, unless a value has types of its own: the iterable was
        gone through.
        """
        if not self._are_known(given) or (yield from self._backlogs.bounded()):
            # What has to be asked is asked before, and of nothing that is not checked.
            given = [
                *given[:checked],
                *all_checked(given[checked:], self._limits, range(checked, len(given))),
            ]
            checked = len(given)
            yield from self._check_places(given)
        parts = list(self._chunks(given, STREAM_ITEMS, keyed=False))
        found = yield from staging.enqueue_stream(
            (queue_id, *self._prepared(given, part, checked)) for queue_id, part in parts
        )
        staged: dict[int, Enqueued] = {}
        for (_, part), answers in zip(parts, found, strict=True):
            staged.update(zip(part, answers, strict=True))
        return [staged[index] for index in range(len(given))]

    def _prepared(
        self, given: Sequence[TaskSpec], part: Sequence[int], checked: int
    ) -> tuple[list[TaskSpec], list[str]]:
        """Return the specs of a part, checked, and their payloads."""
        specs = [given[index] for index in part]
        if part[-1] >= checked:
            specs = all_checked(specs, self._limits, part)
        return specs, all_encoded(specs, self._limits, part)

    def _are_known(self, given: Sequence[TaskSpec]) -> bool:
        """Tell whether queues and workloads of all were met before, whatever else is wrong."""
        try:
            places = set(map(_PLACE, given))
        except TypeError:  # told when it is checked
            return False
        return all(
            queue in self._queue_ids and workload in self._workloads for queue, workload in places
        )

    def _check_places(self, specs: Sequence[TaskSpec]) -> Operation:
        """Raise unless there are these queues and workloads, with room for the tasks."""
        places = list(map(_PLACE, specs))
        for place in dict.fromkeys(places):
            try:
                yield from self._queue_id(place[0])
                yield from self._check_workload(place[1])
            except OrchestratorError:
                with numbered(places.index(place)):
                    raise
        if (yield from self._backlogs.bounded()):
            yield from self._check_backlogs(specs)

    def _check_backlogs(self, specs: Sequence[TaskSpec]) -> Operation:
        lanes: dict[int, list[TaskSpec]] = {}
        for spec in specs:
            lanes.setdefault(self._queue_ids[spec.queue], []).append(spec)
        for queue_id, lane in lanes.items():
            yield from self._backlogs.check(queue_id, lane)

    def _chunks(
        self, specs: Sequence[TaskSpec], items_max: int, *, keyed: bool
    ) -> Iterator[tuple[int, Sequence[int]]]:
        """Yield queue ids with the indexes that go into one statement, each in the order given.

        Queues by id, keyed items first and by key: two batches take keys in one order, and so never
        wait for each other in a circle.
        """
        lanes: dict[int, list[int]] = {}
        if len({spec.queue for spec in specs}) == 1:
            lanes[self._queue_ids[specs[0].queue]] = list(range(len(specs)))
        else:
            for index, spec in enumerate(specs):
                lanes.setdefault(self._queue_ids[spec.queue], []).append(index)
        for queue_id, lane in sorted(lanes.items()):
            if keyed:
                lane.sort(key=lambda index: _key_order(specs[index]))
            for start in range(0, len(lane), items_max):
                yield queue_id, sorted(lane[start : start + items_max])


def _stage_together(queue: int, tasks: Sequence[Ready]) -> Operation:
    specs, payloads = zip(*tasks, strict=True)
    return staging.enqueue(queue, specs, payloads)


def _key_order(spec: TaskSpec) -> tuple[bool, str, str]:
    key = spec.idempotency_key
    return (True, "", "") if key is None else (False, spec.org, key)
