"""Exposures of experiments."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "exposures",
        sa.Column("exposure_id", sa.String, primary_key=True),
        sa.Column("request_id", sa.String, nullable=False),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.Column("experiment", sa.String, nullable=False),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("arm", sa.String, nullable=False),
        sa.Column("propensity", sa.Double, nullable=False),
        sa.Column("bundle", sa.String, nullable=False),
        sa.Column("tier", sa.String, nullable=False),
        sa.Column("item_ids", sa.Text, nullable=False),
    )
    op.create_index("exposures_by_user", "exposures", ["user_id", "experiment", "time_us"])
