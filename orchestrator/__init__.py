"""A fair-admission orchestrator for background work on PostgreSQL: the public names."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from orchestrator.errors import (
    ConfigError,
    DatabaseUnavailable,
    IdempotencyConflict,
    InvalidInput,
    LeadershipLost,
    LeadershipRefused,
    LeaseLost,
    OrchestratorError,
    PayloadError,
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
    Extension,
    OrgConfig,
    Place,
    TaskInfo,
    TaskSpec,
)

if TYPE_CHECKING:
    from orchestrator.client import AsyncClient, Client

__all__ = [
    "AsyncClient",
    "Attempt",
    "AttemptStatus",
    "CancelOutcome",
    "Claim",
    "Client",
    "ConfigError",
    "DatabaseUnavailable",
    "Enqueued",
    "Extension",
    "IdempotencyConflict",
    "InvalidInput",
    "LeadershipLost",
    "LeadershipRefused",
    "LeaseLost",
    "OrchestratorError",
    "OrgConfig",
    "PayloadError",
    "Place",
    "SchemaMismatch",
    "TaskInfo",
    "TaskNotFound",
    "TaskSpec",
    "TaskUnfinished",
    "UnknownOrg",
    "UnknownQueue",
    "UnknownSchedule",
    "UnknownTier",
    "UnknownWorkload",
]

# Their libraries are slow to import, and many a process of ours never needs them.
_ON_DEMAND = {"AsyncClient": "orchestrator.client", "Client": "orchestrator.client"}


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_DEMAND[name]), name)
