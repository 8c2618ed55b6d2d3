"""The core: tasks, staging, task queue, leases, attempts, leadership, configuration."""

from alembic import op

from orchestrator.store.migrate import apply

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Apply 0001_core.sql."""
    apply(op, __file__)
