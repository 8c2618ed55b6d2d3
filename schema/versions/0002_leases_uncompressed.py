"""Leases are kept uncompressed."""

from alembic import op

from orchestrator.store.migrate import apply

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Apply 0002_leases_uncompressed.sql."""
    apply(op, __file__)
