"""No index ends in the queue."""

from alembic import op

from orchestrator.store.migrate import apply

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Apply 0003_indexes_without_queue.sql."""
    apply(op, __file__)
