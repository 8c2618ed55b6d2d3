"""The bounds of a task are checked by one function."""

from alembic import op

from orchestrator.store.migrate import apply

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Apply 0009_task_bounds.sql."""
    apply(op, __file__)
