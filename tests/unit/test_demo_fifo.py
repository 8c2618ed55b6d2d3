"""The counterfactual of the demonstration's figure."""

from orchestrator.demo.fifo import replay
from orchestrator.store.report import Lifecycle


def test_fifo_keeps_every_start_and_serves_in_the_order_of_arrival() -> None:
    fair = [
        Lifecycle("noisy", 0.0, 1.0, 2.0),
        Lifecycle("noisy", 0.1, 3.0, 4.0),
        Lifecycle("quiet", 0.2, 2.0, 2.5),
    ]

    fifo = replay(fair)

    assert [(task.org, task.started_at) for task in fifo] == [
        ("noisy", 1.0),
        ("noisy", 2.0),
        ("quiet", 3.0),
    ]
    assert all(task.started_at >= task.enqueued_at for task in fifo)
    assert [round(task.ended_at - task.started_at, 6) for task in fifo] == [1.0, 1.0, 0.5]
