"""The schema says which older code may run on it."""

from alembic import op

from orchestrator.store.migrate import apply

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Apply 0007_side_by_side.sql."""
    apply(op, __file__)
