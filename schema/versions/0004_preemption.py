"""Critical tasks go first in their flow and may ask running ones to yield."""

from alembic import op

from orchestrator.store.migrate import apply

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Apply 0004_preemption.sql."""
    apply(op, __file__)
