"""First schema: models, predictions, performance, jobs, measurements, outcomes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

PARTITIONED = ("ml_predictions", "ml_performance_logs")

# Makes the partitions of this month and the next ones. The default partition takes what falls outside, so that a
# clock that is off, or a maintenance run that was missed, never loses a record.
ENSURE_PARTITIONS = """
CREATE FUNCTION ensure_partitions(months_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    first date;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(20220003);
    FOREACH parent IN ARRAY ARRAY['ml_predictions', 'ml_performance_logs'] LOOP
        FOR step IN 0..months_ahead LOOP
            first := date_trunc('month', now() AT TIME ZONE 'UTC')::date + make_interval(months => step);
            IF to_regclass(format('%I', parent || to_char(first, '_YYYYMM'))) IS NULL THEN
                EXECUTE format(
                    'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                    parent || to_char(first, '_YYYYMM'), parent,
                    first::timestamp AT TIME ZONE 'UTC', (first + interval '1 month')::timestamp AT TIME ZONE 'UTC'
                );
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END $$
"""

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("key", sa.Uuid(), nullable=False),
        sa.Column("request_mac", sa.LargeBinary(), nullable=False),
        sa.Column("key_version", sa.SmallInteger(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("principal", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "ml_batch_jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("total_items", sa.Integer(), nullable=False),
        sa.Column("processed_items", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed_items", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('pending', 'running', 'completed', 'completed_with_errors', 'failed', 'cancelled')",
            name=op.f("ck_ml_batch_jobs_status"),
        ),
        sa.CheckConstraint(
            "failed_items <= processed_items AND processed_items <= total_items", name=op.f("ck_ml_batch_jobs_counts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ml_batch_jobs")),
    )
    op.create_index(
        op.f("ix_ml_batch_jobs_principal_created_at_id"),
        "ml_batch_jobs",
        ["principal", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "ml_models",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("framework", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=True),
        sa.Column("input_schema", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("output_schema", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("training", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("model_card", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("promoted_by", sa.Text(), nullable=True),
        sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("alias IN ('champion', 'challenger')", name=op.f("ck_ml_models_alias")),
        sa.CheckConstraint("stage IN ('experimental', 'candidate')", name=op.f("ck_ml_models_stage")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ml_models")),
        sa.UniqueConstraint("name", "version", name=op.f("uq_ml_models_name_version")),
    )
    op.create_index(
        "uq_ml_models_name_alias",
        "ml_models",
        ["name", "alias"],
        unique=True,
        postgresql_where=sa.text("alias IS NOT NULL"),
    )
    op.create_table(
        "ml_performance_logs",
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("window_s", sa.REAL(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("shed", sa.BigInteger(), nullable=False),
        sa.Column("cache_hits", sa.BigInteger(), nullable=False),
        sa.Column("latency_mean_ms", sa.REAL(), nullable=True),
        sa.Column("latency_max_ms", sa.REAL(), nullable=True),
        sa.PrimaryKeyConstraint(
            "window_start", "model_name", "model_version", "instance", name=op.f("pk_ml_performance_logs")
        ),
        postgresql_partition_by="RANGE (window_start)",
    )
    op.create_index(
        op.f("ix_ml_performance_logs_model_name_window_start"),
        "ml_performance_logs",
        ["model_name", "window_start"],
        unique=False,
    )
    op.create_table(
        "patient_measurements",
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("measurement_date", sa.Date(), nullable=False),
        sa.Column("pain_score_facial", sa.REAL(), nullable=True),
        sa.Column("pain_score_self_reported", sa.REAL(), nullable=True),
        sa.Column("respiratory_rate", sa.REAL(), nullable=True),
        sa.Column("symptom_severity_score", sa.REAL(), nullable=True),
        sa.PrimaryKeyConstraint("patient_id", "measurement_date", name=op.f("pk_patient_measurements")),
    )
    op.create_index(
        op.f("ix_patient_measurements_measurement_date"), "patient_measurements", ["measurement_date"], unique=False
    )
    op.create_table(
        "patient_outcomes",
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("outcome_date", sa.Date(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("patient_id", "outcome_date", "label", name=op.f("pk_patient_outcomes")),
    )
    op.create_table(
        "ml_predictions",
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("model_id", sa.BigInteger(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=True),
        sa.Column("purpose_of_use", sa.Text(), nullable=False),
        sa.Column("ip_address", postgresql.INET(), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.Column("key_version", sa.SmallInteger(), nullable=False),
        sa.Column("input", sa.LargeBinary(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=False),
        sa.Column("confidence", sa.REAL(), nullable=True),
        sa.Column("cache_hit", sa.Boolean(), nullable=False),
        sa.Column("inference_time_ms", sa.REAL(), nullable=False),
        sa.Column("latency_ms", sa.REAL(), nullable=False),
        sa.PrimaryKeyConstraint("created_at", "id", name=op.f("pk_ml_predictions")),
        postgresql_partition_by="RANGE (created_at)",
    )
    op.create_index(
        op.f("ix_ml_predictions_model_name_created_at_id"),
        "ml_predictions",
        ["model_name", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_ml_predictions_patient_id_created_at_id"),
        "ml_predictions",
        ["patient_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_ml_predictions_principal_created_at_id"),
        "ml_predictions",
        ["principal", "created_at", "id"],
        unique=False,
    )
    for table in PARTITIONED:
        op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    op.execute(ENSURE_PARTITIONS)
    op.execute("SELECT ensure_partitions(3)")


def downgrade() -> None:
    op.drop_index(op.f("ix_ml_predictions_principal_created_at_id"), table_name="ml_predictions")
    op.drop_index(op.f("ix_ml_predictions_patient_id_created_at_id"), table_name="ml_predictions")
    op.drop_index(op.f("ix_ml_predictions_model_name_created_at_id"), table_name="ml_predictions")
    op.drop_table("ml_predictions")
    op.drop_table("patient_outcomes")
    op.drop_index(op.f("ix_patient_measurements_measurement_date"), table_name="patient_measurements")
    op.drop_table("patient_measurements")
    op.drop_index(op.f("ix_ml_performance_logs_model_name_window_start"), table_name="ml_performance_logs")
    op.drop_table("ml_performance_logs")
    op.drop_index("uq_ml_models_name_alias", table_name="ml_models", postgresql_where=sa.text("alias IS NOT NULL"))
    op.drop_table("ml_models")
    op.drop_index(op.f("ix_ml_batch_jobs_principal_created_at_id"), table_name="ml_batch_jobs")
    op.drop_table("ml_batch_jobs")
    op.drop_index(op.f("ix_idempotency_keys_created_at"), table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.execute("DROP FUNCTION ensure_partitions(integer)")
