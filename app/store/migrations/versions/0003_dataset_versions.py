"""Owns schema 0003: datasets of one name have versions."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # What is held is the version now; its unique column stays, as SQLite drops none without a
    # rebuild of the table. No name has an "@".
    op.add_column("datasets", sa.Column("version", sa.Integer, nullable=False, server_default="1"))
    op.execute("UPDATE datasets SET held_name = name || '@1' WHERE held_name IS NOT NULL")


def downgrade() -> None:
    op.execute("UPDATE datasets SET held_name = NULL WHERE held_name IS NOT NULL AND version > 1")
    op.execute("UPDATE datasets SET held_name = name WHERE held_name IS NOT NULL")
    op.drop_column("datasets", "version")
