"""Items that were changed online."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "items",
        sa.Column("item_id", sa.String, primary_key=True),
        sa.Column("available", sa.Boolean, nullable=False),
        sa.Column("change", sa.BigInteger, nullable=False),
        sa.Column("place", sa.BigInteger, unique=True),
        sa.Column("columns", sa.String),
        sa.Column("text", sa.String),
        sa.Column("encoder", sa.String),
        sa.Column("vector", sa.LargeBinary),
    )
    op.create_index("items_by_change", "items", ["change"])
