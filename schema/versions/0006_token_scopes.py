"""Tokens have scopes."""

from alembic import op

from orchestrator.store.migrate import apply

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Apply 0006_token_scopes.sql."""
    apply(op, __file__)
