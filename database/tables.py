"""The tables, as SQLAlchemy 2 sees them. migrations/ makes them; a test compares the two.

`ml_predictions` and `ml_performance_logs` grow without end, so they are partitioned by month. A prediction's id is a
UUIDv7 and its `created_at` is the very millisecond inside that id: an id alone leads to its partition, and newest-
first paging needs no second key.
"""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import INET, JSONB, REAL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    """Declares the names of constraints, so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it off the class
        str: Text,
        datetime: DateTime(timezone=True),
        float: REAL,
        dict[str, Any]: JSONB,
        bytes: LargeBinary,
    }


class ModelVersion(Table):
    """One registered version of a model; `alias` says whether it answers."""

    __tablename__ = "ml_models"
    __table_args__ = (
        UniqueConstraint("name", "version"),
        CheckConstraint("alias IN ('champion', 'challenger')", name="alias"),
        CheckConstraint("stage IN ('experimental', 'candidate')", name="stage"),
        Index("uq_ml_models_name_alias", "name", "alias", unique=True, postgresql_where=text("alias IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    name: Mapped[str]
    version: Mapped[str]
    kind: Mapped[str]
    task: Mapped[str]
    framework: Mapped[str]
    digest: Mapped[str]
    stage: Mapped[str]
    alias: Mapped[str | None]
    input_schema: Mapped[dict[str, Any]]
    output_schema: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    training: Mapped[dict[str, Any]]
    model_card: Mapped[str]
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    promoted_by: Mapped[str | None]
    promoted_at: Mapped[datetime | None]


class PredictionRecord(Table):
    """The audit trail's row of one prediction. `input` and `result` are AES-256-GCM cipher text."""

    __tablename__ = "ml_predictions"
    __table_args__ = (
        PrimaryKeyConstraint("created_at", "id"),
        Index(None, "patient_id", "created_at", "id"),
        Index(None, "principal", "created_at", "id"),
        Index(None, "model_name", "created_at", "id"),
        {"postgresql_partition_by": "RANGE (created_at)"},
    )

    created_at: Mapped[datetime]
    id: Mapped[UUID]
    request_id: Mapped[UUID]
    route: Mapped[str]
    model_id: Mapped[int] = mapped_column(BigInteger)  # of ml_models; a foreign key would lock that row at each insert
    model_name: Mapped[str]
    model_version: Mapped[str]
    model_digest: Mapped[str]
    principal: Mapped[str]
    roles: Mapped[str]
    client_id: Mapped[str]
    patient_id: Mapped[str | None]
    purpose_of_use: Mapped[str]
    ip_address: Mapped[str | None] = mapped_column(INET)
    user_agent: Mapped[str | None]
    key_version: Mapped[int] = mapped_column(SmallInteger)
    input: Mapped[bytes]
    result: Mapped[bytes]
    confidence: Mapped[float | None]
    cache_hit: Mapped[bool]
    inference_time_ms: Mapped[float]
    latency_ms: Mapped[float]


class IdempotencyKey(Table):
    """The first answer given under a caller's Idempotency-Key; committed together with its prediction."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (PrimaryKeyConstraint("principal", "key"), Index(None, "created_at"))

    principal: Mapped[str]
    key: Mapped[UUID]
    request_mac: Mapped[bytes]
    key_version: Mapped[int] = mapped_column(SmallInteger)
    answer: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class PerformanceLog(Table):
    """What one serving process did with one model version in one window of time, failures included."""

    __tablename__ = "ml_performance_logs"
    __table_args__ = (
        PrimaryKeyConstraint("window_start", "model_name", "model_version", "instance"),
        Index(None, "model_name", "window_start"),
        {"postgresql_partition_by": "RANGE (window_start)"},
    )

    window_start: Mapped[datetime]
    model_name: Mapped[str]
    model_version: Mapped[str]
    instance: Mapped[str]
    window_s: Mapped[float]
    requests: Mapped[int] = mapped_column(BigInteger)
    errors: Mapped[int] = mapped_column(BigInteger)
    shed: Mapped[int] = mapped_column(BigInteger)
    cache_hits: Mapped[int] = mapped_column(BigInteger)
    latency_mean_ms: Mapped[float | None]
    latency_max_ms: Mapped[float | None]


class BatchJob(Table):
    """One bulk prediction."""

    __tablename__ = "ml_batch_jobs"
    __table_args__ = (
        CheckConstraint(
            "status IN ('pending', 'running', 'completed', 'completed_with_errors', 'failed', 'cancelled')",
            name="status",
        ),
        CheckConstraint("failed_items <= processed_items AND processed_items <= total_items", name="counts"),
        Index(None, "principal", "created_at", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    model_name: Mapped[str]
    principal: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="pending")
    total_items: Mapped[int]
    processed_items: Mapped[int] = mapped_column(server_default="0")
    failed_items: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]


class PatientMeasurement(Table):
    """One day of home measurements of one person; null where nothing was measured."""

    __tablename__ = "patient_measurements"
    __table_args__ = (PrimaryKeyConstraint("patient_id", "measurement_date"), Index(None, "measurement_date"))

    patient_id: Mapped[str]
    measurement_date: Mapped[date] = mapped_column(Date)
    pain_score_facial: Mapped[float | None]
    pain_score_self_reported: Mapped[float | None]
    respiratory_rate: Mapped[float | None]
    symptom_severity_score: Mapped[float | None]


class PatientOutcome(Table):
    """What was observed to happen to a person, and who says so: the labels of training."""

    __tablename__ = "patient_outcomes"
    __table_args__ = (PrimaryKeyConstraint("patient_id", "outcome_date", "label"),)

    patient_id: Mapped[str]
    outcome_date: Mapped[date] = mapped_column(Date)
    label: Mapped[str]
    source: Mapped[str]
    recorded_at: Mapped[datetime] = mapped_column(server_default=func.now())


PARTITIONED = (PredictionRecord.__tablename__, PerformanceLog.__tablename__)
