"""The tables, as SQLAlchemy 2 sees them. migrations/ makes them; a test compares the two.

`ml_predictions` and `ml_performance_logs` grow without end, so they are partitioned by month. A prediction's id is a
UUIDv7 and its `created_at` is the very millisecond inside that id: an id alone leads to its partition, and newest-
first paging needs no second key.
"""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
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
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import UserDefinedType

# Of a row of the trail: migration 0002 says why.
_TIME_OF_ID = (
    "extract(epoch FROM created_at) * 1000 = ('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint"
    " AND created_at >= '2020-01-01Z' AND created_at < '2100-01-01Z'"
)


# What every reader of a row can carry, and the limits of an export's line; migration 0006.
_EVENT_FITS = (
    "octet_length(concat(action, route, outcome, principal, roles, client_id, patient_id, target, purpose_of_use,"
    " user_agent)) <= 65536"
    " AND coalesce(octet_length(detail), 0) <= 1048576"
    " AND (patients IS NULL OR patients = '{}' OR array_ndims(patients) = 1 AND array_lower(patients, 1) = 1"
    " AND array_position(patients, NULL) IS NULL AND octet_length(patients::text) <= 262144)"
)
_PREDICTION_FITS = (
    "octet_length(concat(route, model_name, model_version, model_digest, variant, principal, roles, client_id,"
    " patient_id, purpose_of_use, user_agent)) <= 65536"
    " AND octet_length(input) + octet_length(result) <= 4194304"
    " AND coalesce(octet_length(answer_commitment), 32) = 32"
)
_KEY_FITS = "octet_length(concat(subject, wrapping_key_id)) + coalesce(octet_length(wrapped_key), 0) <= 65536"


class XID8(UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        return "xid8"


ischema_names["xid8"] = XID8


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
        CheckConstraint("principal <> ''", name="principal"),
        CheckConstraint(_TIME_OF_ID, name="time_of_id"),
        CheckConstraint(_PREDICTION_FITS, name="fits"),
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
    variant: Mapped[str]  # the alias under which the version answered
    principal: Mapped[str]
    roles: Mapped[str]
    client_id: Mapped[str]
    patient_id: Mapped[str | None]
    purpose_of_use: Mapped[str]
    ip_address: Mapped[str | None] = mapped_column(INET)
    user_agent: Mapped[str | None]
    key_id: Mapped[UUID]  # of data_keys
    input: Mapped[bytes]
    result: Mapped[bytes]
    confidence: Mapped[float | None]
    cache_hit: Mapped[bool]
    inference_time_ms: Mapped[float]
    latency_ms: Mapped[float]
    answer_commitment: Mapped[bytes | None]  # audit/commitment.py; null before there were any
    xid: Mapped[str] = mapped_column(XID8, server_default=func.pg_current_xact_id(), index=True)


class AuditEvent(Table):
    """One access that was not an answered prediction: who did or tried what, and how it ended.

    `action` is the policy's word for it, `route` the template of the address, `outcome` one word for how it ended.
    `patient_id` is whom it was about, `patients` where that were several; `detail` is AES-256-GCM cipher text.
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        PrimaryKeyConstraint("created_at", "id"),
        Index(None, "patient_id", "created_at", "id"),
        Index(None, "principal", "created_at", "id"),
        Index(None, "target", "action", postgresql_where=text("detail IS NOT NULL")),
        Index(None, "patients", postgresql_using="gin", postgresql_where=text("patients IS NOT NULL")),
        CheckConstraint("principal <> ''", name="principal"),
        CheckConstraint(_TIME_OF_ID, name="time_of_id"),
        CheckConstraint(_EVENT_FITS, name="fits"),
        {"postgresql_partition_by": "RANGE (created_at)"},
    )

    created_at: Mapped[datetime]
    id: Mapped[UUID]
    request_id: Mapped[UUID]
    action: Mapped[str]
    route: Mapped[str]
    status: Mapped[int] = mapped_column(SmallInteger)
    outcome: Mapped[str]
    principal: Mapped[str]
    roles: Mapped[str]
    client_id: Mapped[str]
    patient_id: Mapped[str | None]
    patients: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    target: Mapped[str | None]
    purpose_of_use: Mapped[str]
    ip_address: Mapped[str | None] = mapped_column(INET)
    user_agent: Mapped[str | None]
    key_id: Mapped[UUID | None]
    detail: Mapped[bytes | None]
    latency_ms: Mapped[float]
    xid: Mapped[str] = mapped_column(XID8, server_default=func.pg_current_xact_id(), index=True)


class AuditLeaf(Table):
    """One sealed row of the trail: its place in the Merkle tree and the RFC 6962 hash of its canonical form."""

    __tablename__ = "audit_leaves"
    __table_args__ = (
        UniqueConstraint("row_id", "source", "created_at"),
        CheckConstraint("source IN ('ml_predictions', 'audit_events')", name="source"),
    )

    leaf_index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    source: Mapped[str]
    created_at: Mapped[datetime]
    row_id: Mapped[UUID]
    leaf_hash: Mapped[bytes]


class AuditNode(Table):
    """The hash over the 2^level leaves from position * 2^level on; only complete subtrees are kept, level 1 and up."""

    __tablename__ = "audit_nodes"
    __table_args__ = (PrimaryKeyConstraint("level", "position"),)

    level: Mapped[int] = mapped_column(SmallInteger)
    position: Mapped[int] = mapped_column(BigInteger)
    node_hash: Mapped[bytes]


class AuditCheckpoint(Table):
    """A signed statement of the whole tree (C2SP tlog-checkpoint); rows of transactions before `horizon` are in it."""

    __tablename__ = "audit_checkpoints"

    tree_size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    root_hash: Mapped[bytes]
    note: Mapped[str]
    horizon: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class AuditAnchor(Table):
    """A checkpoint that was also put where this database's administrator cannot reach."""

    __tablename__ = "audit_anchors"
    __table_args__ = (PrimaryKeyConstraint("tree_size", "place"),)

    tree_size: Mapped[int] = mapped_column(BigInteger)
    place: Mapped[str]
    anchored_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class SealingTurn(Table):
    """One row. Whoever has locked it seals; only the sealer's role may, so that nobody else can keep it."""

    __tablename__ = "sealing_turn"
    __table_args__ = (CheckConstraint("id = 1", name="only"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)


class AuditRestoration(Table):
    """Which event says that this database was restored from a backup: audit/restoration.py."""

    __tablename__ = "audit_restorations"
    __table_args__ = (PrimaryKeyConstraint("created_at", "event_id"),)

    created_at: Mapped[datetime]
    event_id: Mapped[UUID]


class LegalHold(Table):
    """While it stands, nothing of this patient (null: of anybody) is erased or archived away."""

    __tablename__ = "legal_holds"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    patient_id: Mapped[str | None]
    reason: Mapped[str]
    placed_by: Mapped[str]
    placed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    released_by: Mapped[str | None]
    released_at: Mapped[datetime | None]


class DataKey(Table):
    """The key that seals what is held about one subject, wrapped by the key-encryption key; null once destroyed."""

    __tablename__ = "data_keys"
    __table_args__ = (
        Index("uq_data_keys_subject", "subject", unique=True, postgresql_where=text("destroyed_at IS NULL")),
        Index(None, "destroyed_at", postgresql_where=text("destroyed_at IS NOT NULL")),
        CheckConstraint("(wrapped_key IS NULL) = (destroyed_at IS NOT NULL)", name="destroyed"),
        CheckConstraint(_KEY_FITS, name="fits"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    subject: Mapped[str]
    wrapping_key_id: Mapped[str]
    wrapped_key: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    destroyed_at: Mapped[datetime | None]


class CareTeamMember(Table):
    """A clinician who cares for a patient."""

    __tablename__ = "care_team"
    __table_args__ = (
        PrimaryKeyConstraint("clinician", "patient_id"),
        Index("ix_care_team_one_spelling", text("canonical_subject(clinician)"), text("canonical_subject(patient_id)")),
    )

    clinician: Mapped[str]
    patient_id: Mapped[str]
    since: Mapped[datetime] = mapped_column(server_default=func.now())
    until: Mapped[datetime | None]
    granted_by: Mapped[str]


class BreakGlass(Table):
    """Emergency access of a clinician to one patient, an hour at most; somebody else reviews it. `reason` is sealed."""

    __tablename__ = "break_glass"
    __table_args__ = (
        CheckConstraint(
            "expires_at > started_at AND expires_at <= started_at + interval '60 minutes'", name="duration"
        ),
        CheckConstraint("reviewed_by <> clinician", name="reviewer"),
        CheckConstraint("octet_length(reason) <= 65536", name="fits"),
        Index(None, "clinician", "expires_at"),
        Index(
            "ix_break_glass_one_spelling", text("canonical_subject(clinician)"), text("canonical_subject(patient_id)")
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    clinician: Mapped[str]
    patient_id: Mapped[str]
    key_id: Mapped[UUID]
    reason: Mapped[bytes]
    started_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    above_ceiling: Mapped[bool] = mapped_column(server_default=text("false"))
    reviewed_by: Mapped[str | None]
    reviewed_at: Mapped[datetime | None]


class Revocation(Table):
    """A token (jti), a login (origin_jti) or a person (sub) that is no longer let in; until null: for good."""

    __tablename__ = "revocations"
    __table_args__ = (
        PrimaryKeyConstraint("kind", "value"),
        CheckConstraint("kind IN ('jti', 'origin_jti', 'sub')", name="kind"),
    )

    kind: Mapped[str]
    value: Mapped[str]
    revoked_by: Mapped[str]
    revoked_at: Mapped[datetime] = mapped_column(server_default=func.now())
    until: Mapped[datetime | None]


class LoginSession(Table):
    """When a login (a digest of its origin_jti) was last used, for the log-off of idle ones."""

    __tablename__ = "login_sessions"

    session: Mapped[bytes] = mapped_column(primary_key=True)
    last_seen: Mapped[datetime]


class ModelSignature(Table):
    """A signed act on one version of a model: who, when, with which meaning, bound to the digest of its files."""

    __tablename__ = "model_signatures"
    __table_args__ = (
        CheckConstraint("meaning IN ('registered', 'approved', 'rejected', 'promoted', 'rolled-back')", name="meaning"),
        Index(None, "model_name", "model_version"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    model_name: Mapped[str]
    model_version: Mapped[str]
    model_digest: Mapped[str]
    meaning: Mapped[str]
    signer: Mapped[str]
    signed_at: Mapped[datetime]
    comment: Mapped[str] = mapped_column(server_default="")
    signature: Mapped[bytes]


class ExternalAgreement(Table):
    """One approver's signature under a business associate agreement that an external model needs."""

    __tablename__ = "external_agreements"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    model_name: Mapped[str]
    party: Mapped[str]
    scope: Mapped[str]
    document_sha256: Mapped[str]
    expires_on: Mapped[date] = mapped_column(Date)
    signer: Mapped[str]
    signed_at: Mapped[datetime]
    signature: Mapped[bytes]


class IdempotencyKey(Table):
    """The first answer given under a caller's Idempotency-Key; committed together with its prediction."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (PrimaryKeyConstraint("principal", "key"), Index(None, "created_at"))

    principal: Mapped[str]
    key: Mapped[UUID]
    request_mac: Mapped[bytes]
    key_version: Mapped[int] = mapped_column(SmallInteger)
    answer: Mapped[bytes]
    patients: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default="{}")  # whose erasure removes it
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


PARTITIONED = (PredictionRecord.__tablename__, PerformanceLog.__tablename__, AuditEvent.__tablename__)
