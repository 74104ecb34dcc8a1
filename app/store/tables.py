"""Owns the tables: the columns of jobs, their events, the datasets and the keys."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
)

# Named constraints, because a migration on PostgreSQL can only drop what has a known name.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("model", String(64), nullable=False),
    # No foreign key: a job outlives the dataset it was trained on.
    Column("dataset_id", String(64), nullable=False),
    Column("dataset_name", String(64), nullable=False),
    Column("preset", String(64), nullable=False),
    Column("minutes", Float),
    Column("kimg", Float),
    Column("until", JSON(none_as_null=True)),
    Column("overrides", JSON, nullable=False),
    Column("promote", String(16), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("base", String(80)),
    # The folder under runs/: named after the first of the jobs that went on in it.
    Column("run", String(64), nullable=False, server_default=""),
    Column("retry_of", String(64)),
    Column("attempt", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("worker", String(128)),
    Column("lease_until", Float),
    Column("cancel_requested", Boolean(create_constraint=False), nullable=False),
    Column(
        "pause_requested",
        Boolean(create_constraint=False),
        nullable=False,
        server_default=false(),
    ),
    # How many lines of the run's events.jsonl this job has told as its events.
    Column("events_told", Integer, nullable=False, server_default="0"),
    Column("idempotency_key", String(255)),
    Column("idempotency_hash", String(64)),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("progress", JSON(none_as_null=True)),
    Column("result", JSON(none_as_null=True)),
    Column("error", Text),
    Index(None, "status", "id"),
    Index(None, "dataset_id"),
    Index(None, "run"),
    Index(None, "idempotency_key", unique=True),
)

job_events = Table(
    "job_events",
    metadata,
    Column("job_id", String(64), ForeignKey("jobs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("type", String(32), nullable=False),
    Column("at", Float, nullable=False),
    Column("data", JSON, nullable=False),
)

datasets = Table(
    "datasets",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    # name@version while it is held, NULL once the import failed: many NULLs may share a unique
    # column. SQLite does not hold it to its length.
    Column("held_name", String(64), unique=True),
    Column("status", String(16), nullable=False),
    Column("upload", String(255)),
    Column("summary", JSON(none_as_null=True)),
    Column("error", Text),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    Index(None, "name"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    # SHA-256 in hex. The key itself is shown once and kept nowhere.
    Column("digest", String(64), nullable=False, unique=True),
    Column("scopes", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)
