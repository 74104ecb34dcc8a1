"""Owns schema 0002: jobs pause, are retried, start from a version, and answer to a client's key."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # SQLite adds no NOT NULL column without a default; the alternative is to rebuild the table, for
    # which its foreign keys would have to be off. Hence a unique index, no constraint, too.
    flag = sa.Boolean(create_constraint=False)
    op.add_column("jobs", sa.Column("base", sa.String(80)))
    op.add_column("jobs", sa.Column("run", sa.String(64), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("retry_of", sa.String(64)))
    op.add_column(
        "jobs", sa.Column("pause_requested", flag, nullable=False, server_default=sa.false())
    )
    op.add_column("jobs", sa.Column("events_told", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("idempotency_key", sa.String(255)))
    op.add_column("jobs", sa.Column("idempotency_hash", sa.String(64)))
    op.execute("UPDATE jobs SET run = id")
    op.create_index("ix_jobs_run", "jobs", ["run"])
    op.create_index("ix_jobs_idempotency_key", "jobs", ["idempotency_key"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_jobs_idempotency_key", "jobs")
    op.drop_index("ix_jobs_run", "jobs")
    for name in ("base", "run", "retry_of", "pause_requested", "events_told"):
        op.drop_column("jobs", name)
    for name in ("idempotency_key", "idempotency_hash"):
        op.drop_column("jobs", name)
