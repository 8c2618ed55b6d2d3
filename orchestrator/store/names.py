"""Names in the database that carry a queue's id.

By id, because a name can have 200 characters and a channel is cut at 63 bytes, so that two queues
would share one.
"""

from __future__ import annotations

# "orch" in ASCII: the class of our advisory locks; the object is the queue's id, 0 for migrations.
LOCK_CLASS = 0x6F726368
MIGRATION_LOCK = 0

# The dispatch keys of express work are those of ordinary work less this: a range of its own, so
# that one index serves both in order and a claim can take either alone. An ordinary key starts near
# 0 and grows by 16 an admission: at a million a second it needs four thousand years to 2^61.
EXPRESS_SHIFT = 2**62
# Ordinary keys lie from here on, express ones below: half way between the two starts, because a
# high priority takes a key below its start.
MAIN_MIN = -(2**61)


def floor_sequence(queue: int) -> str:
    """Return the sequence that publishes the smallest ordinary key that may be unclaimed."""
    return f"orchestrator.floor_{queue}"


def express_floor_sequence(queue: int) -> str:
    """Return the sequence that publishes the smallest express key that may be unclaimed."""
    return f"orchestrator.express_floor_{queue}"


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


def control_channel(queue: int) -> str:
    """Return the channel that tells workers to look at a lease, whose claim id is the payload; an
    empty one means all of theirs.
    """
    return f"orchestrator_control_{queue}"


def worker_application(queue: int, concurrency: int) -> str:
    """Return the application name by which a parked worker announces its capacity to the leader."""
    return f"orchestrator worker q={queue} c={concurrency}"


def worker_pattern(queue: int) -> str:
    """Return the LIKE pattern of `worker_application` for one queue."""
    return f"orchestrator worker q={queue} c=%"
