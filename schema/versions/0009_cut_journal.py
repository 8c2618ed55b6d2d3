"""What a tick changes of the cut is one row of a journal."""

from alembic import op

from orchestrator.store.migrate import apply

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Apply 0009_cut_journal.sql."""
    apply(op, __file__)
