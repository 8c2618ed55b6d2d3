"""What the same arrivals would have met in a plain first-in, first-out queue.

The counterfactual serves the tasks that really arrived, for as long as they really took, on as many
slots as the workers really had; only the order is different.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heapreplace

from orchestrator.store.report import Lifecycle


def replay(lifecycles: Sequence[Lifecycle], slots: int) -> list[Lifecycle]:
    """Return the lifecycles as plain FIFO on `slots` slots would have made them."""
    free_at = [float("-inf")] * slots
    heapify(free_at)
    replayed = []
    for task in sorted(lifecycles, key=lambda task: task.enqueued_at):
        started_at = max(task.enqueued_at, free_at[0])
        ended_at = started_at + (task.ended_at - task.started_at)
        heapreplace(free_at, ended_at)
        replayed.append(Lifecycle(task.org, task.enqueued_at, started_at, ended_at))
    return replayed
