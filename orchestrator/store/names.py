"""Names in the database that carry a queue's id.

By id, because a name can have 200 characters and a channel is cut at 63 bytes, so that two queues
would share one.
"""

from __future__ import annotations

# "orch" in ASCII: the class of our advisory locks; the object is the queue's id, 0 for migrations.
LOCK_CLASS = 0x6F726368
MIGRATION_LOCK = 0


def floor_sequence(queue: int) -> str:
    """Return the sequence that publishes the smallest key that may be unclaimed."""
    return f"orchestrator.floor_{queue}"


def doze_sequence(queue: int) -> str:
    """Return the sequence that says whether the leader sleeps: 1 awake, 2 for work, 3 for slots
    too.
    """
    return f"orchestrator.doze_{queue}"


def staged_channel(queue: int) -> str:
    """Return the channel that wakes the leader."""
    return f"orchestrator_staged_{queue}"


def ready_channel(queue: int) -> str:
    """Return the channel that wakes workers."""
    return f"orchestrator_ready_{queue}"


def worker_application(queue: int, concurrency: int) -> str:
    """Return the application name by which a parked worker announces its capacity to the leader."""
    return f"orchestrator worker q={queue} c={concurrency}"


def worker_pattern(queue: int) -> str:
    """Return the LIKE pattern of `worker_application` for one queue."""
    return f"orchestrator worker q={queue} c=%"
