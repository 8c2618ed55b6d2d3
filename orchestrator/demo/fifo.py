"""What the same arrivals would have met in a plain first-in, first-out queue.

The counterfactual keeps every instant at which a task really started, and with them the capacity
that was really in use; only whose task it is changes: the k-th start goes to the k-th arrival. By
then that one had arrived, for as many had started.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.store.report import Lifecycle


def replay(lifecycles: Sequence[Lifecycle]) -> list[Lifecycle]:
    """Return the lifecycles as plain FIFO would have made them."""
    starts = sorted(task.started_at for task in lifecycles)
    arrivals = sorted(lifecycles, key=lambda task: task.enqueued_at)
    return [
        Lifecycle(task.org, task.enqueued_at, start, start + task.ended_at - task.started_at)
        for task, start in zip(arrivals, starts, strict=True)
    ]
