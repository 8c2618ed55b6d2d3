"""A fair-admission orchestrator for background work on PostgreSQL: the public names."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from orchestrator.errors import (
    BacklogFull,
    ConfigError,
    DatabaseUnavailable,
    IdempotencyConflict,
    InvalidInput,
    LeadershipLost,
    LeadershipRefused,
    LeaseLost,
    OrchestratorError,
    PayloadError,
    PrivilegeMissing,
    SchemaMismatch,
    TaskNotFound,
    TaskUnfinished,
    UnknownOrg,
    UnknownQueue,
    UnknownSchedule,
    UnknownTier,
    UnknownWorkload,
)
from orchestrator.model import (
    Attempt,
    AttemptStatus,
    CancelOutcome,
    Claim,
    Enqueued,
    Explanation,
    Extension,
    Heartbeat,
    OrgConfig,
    Place,
    Reason,
    ReasonKind,
    TaskInfo,
    TaskSpec,
    Urgency,
)

if TYPE_CHECKING:
    from orchestrator.client import AsyncClient, Client
    from orchestrator.worker import App, Discard, Done, Snooze, Task, Worker

__all__ = [
    "App",
    "AsyncClient",
    "Attempt",
    "AttemptStatus",
    "BacklogFull",
    "CancelOutcome",
    "Claim",
    "Client",
    "ConfigError",
    "DatabaseUnavailable",
    "Discard",
    "Done",
    "Enqueued",
    "Explanation",
    "Extension",
    "Heartbeat",
    "IdempotencyConflict",
    "InvalidInput",
    "LeadershipLost",
    "LeadershipRefused",
    "LeaseLost",
    "OrchestratorError",
    "OrgConfig",
    "PayloadError",
    "Place",
    "PrivilegeMissing",
    "Reason",
    "ReasonKind",
    "SchemaMismatch",
    "Snooze",
    "Task",
    "TaskInfo",
    "TaskNotFound",
    "TaskSpec",
    "TaskUnfinished",
    "UnknownOrg",
    "UnknownQueue",
    "UnknownSchedule",
    "UnknownTier",
    "UnknownWorkload",
    "Urgency",
    "Worker",
]

# Their libraries are slow to import, and many a process of ours never needs them.
_ON_DEMAND = {
    "orchestrator.client": ["AsyncClient", "Client"],
    "orchestrator.worker": ["App", "Discard", "Done", "Snooze", "Task", "Worker"],
}
_HOMES = {name: home for home, names in _ON_DEMAND.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
