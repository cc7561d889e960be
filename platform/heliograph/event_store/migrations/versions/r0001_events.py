"""Events, erasures and export folders."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "events",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("event_id", sa.String, nullable=False, unique=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("item_id", sa.String, nullable=False),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("value", sa.Double),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_user", "events", ["user_id", "time_us"])
    op.create_table(
        "erasures",
        sa.Column("user_digest", sa.String, primary_key=True),
        sa.Column("erased_us", sa.BigInteger, nullable=False),
    )
    op.create_table("export_folders", sa.Column("folder", sa.String, primary_key=True))
