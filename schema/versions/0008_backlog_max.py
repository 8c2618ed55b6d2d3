"""What of an org may wait has a bound."""

from alembic import op

from orchestrator.store.migrate import apply

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Apply 0008_backlog_max.sql."""
    apply(op, __file__)
