"""Database roles with few privileges."""

from alembic import op

from orchestrator.store.migrate import apply

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Apply 0005_roles.sql."""
    apply(op, __file__)
