"""The worker runtime: an app of handlers, and the process that runs them."""

from orchestrator.worker.app import App, Discard, Done, Snooze, Task
from orchestrator.worker.worker import Worker

__all__ = ["App", "Discard", "Done", "Snooze", "Task", "Worker"]
