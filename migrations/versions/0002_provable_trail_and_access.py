"""A trail that can be proven, keys of each patient, and access by relation.

The roles are shared by all databases of a server; where they exist already they are taken as they are. A managed
PostgreSQL whose owner may not create roles needs them made before: docs/deploying.md has the three lines.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ROLES = ("followup_app", "followup_sealer", "followup_auditor")
APPEND_ONLY = (
    "ml_predictions",
    "audit_events",
    "audit_leaves",
    "audit_nodes",
    "audit_checkpoints",
    "audit_anchors",
    "model_signatures",
)
# Rows written before there were keys of patients were sealed with a key derived from ENCRYPTION_KEY itself.
FIRST_KEY = "00000000-0000-0000-0000-000000000000"

CREATE_ROLES = """
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['followup_app', 'followup_sealer', 'followup_auditor'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;  -- somebody else made it just now
            END;
        END IF;
    END LOOP;
END $$
"""

REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
END $$
"""

# Which patients a clinician is related to just now. Views run with their owner's rights, so that the policies below can
# ask without everybody being able to read the reasons of break-glass.
CARE_RELATIONS = """
CREATE VIEW care_relations AS
    SELECT clinician, patient_id FROM care_team
    WHERE since <= now() AND (until IS NULL OR until > now())
    UNION
    SELECT clinician, patient_id FROM break_glass WHERE started_at <= now() AND expires_at > now()
"""

# What the caller of the current transaction may see. Every read states it (database/reading.py); a transaction that
# does not sees nothing.
MAY_READ = """
    current_setting('followup.everything', true) = 'on'
    OR (principal = current_setting('followup.author', true) AND {unlinked})
    OR principal = NULLIF(current_setting('followup.own_log', true), '')
    OR patient_id = NULLIF(current_setting('followup.patient', true), '')
    OR patient_id IN (
        SELECT patient_id FROM care_relations WHERE clinician = NULLIF(current_setting('followup.clinician', true), ''))
"""
# An event may be about several patients at once, such as a page of the history.
NAMES_PATIENT = "NULLIF(current_setting('followup.patient', true), '') = ANY (patients)"

# A row's time is the millisecond inside its UUIDv7: one id has one time, and no row is of a time that readers cannot
# show. An infinite time equals no number.
TIME_OF_ID = (
    "extract(epoch FROM created_at) * 1000 = ('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint"
    " AND created_at >= '2020-01-01Z' AND created_at < '2100-01-01Z'"
)

# As in the first schema, with the new table and without TRUNCATE on any partition. It runs as its owner: the server's
# own role may not create tables. A month that cannot be made, as when a row of it lies in the default partition, must
# not keep the others from being made.
ENSURE_PARTITIONS = """
CREATE OR REPLACE FUNCTION ensure_partitions(months_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
    parent text;
    partition text;
    first date;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(20220003);
    FOREACH parent IN ARRAY ARRAY[{parents}] LOOP
        FOR step IN 0..least(months_ahead, 24) LOOP
            first := date_trunc('month', now() AT TIME ZONE 'UTC')::date + make_interval(months => step);
            partition := parent || to_char(first, '_YYYYMM');
            CONTINUE WHEN to_regclass(format('%I', partition)) IS NOT NULL;
            BEGIN
                EXECUTE format(
                    'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                    partition, parent,
                    first::timestamp AT TIME ZONE 'UTC', (first + interval '1 month')::timestamp AT TIME ZONE 'UTC'
                );
                IF parent <> 'ml_performance_logs' THEN
                    EXECUTE format(
                        'CREATE TRIGGER no_truncate BEFORE TRUNCATE ON %I EXECUTE FUNCTION refuse_change()', partition);
                END IF;
                made := made + 1;
            EXCEPTION WHEN OTHERS THEN
                RAISE WARNING 'partition % was not made (%)', partition, SQLSTATE;
            END;
        END LOOP;
    END LOOP;
    RETURN made;
END $$
"""

GRANTS = """
GRANT USAGE ON SCHEMA {schema} TO followup_app, followup_sealer, followup_auditor;
GRANT SELECT ON ml_predictions, audit_events TO followup_app, followup_sealer, followup_auditor;
GRANT INSERT ({prediction_columns}) ON ml_predictions TO followup_app;
GRANT INSERT ({event_columns}) ON audit_events TO followup_app;
GRANT SELECT ON audit_leaves, audit_nodes, audit_checkpoints, audit_anchors
    TO followup_app, followup_sealer, followup_auditor;
GRANT INSERT ON audit_leaves, audit_nodes, audit_checkpoints, audit_anchors TO followup_sealer;
GRANT SELECT ON ml_models, model_signatures TO followup_app, followup_auditor;
GRANT SELECT ON care_team, break_glass, care_relations, revocations, legal_holds, external_agreements
    TO followup_app, followup_auditor;
GRANT INSERT, UPDATE ON care_team TO followup_app;
GRANT INSERT ON break_glass, revocations TO followup_app;
GRANT UPDATE (until, revoked_by, revoked_at) ON revocations TO followup_app;
GRANT UPDATE (reviewed_by, reviewed_at) ON break_glass TO followup_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON login_sessions TO followup_app;
GRANT SELECT, INSERT ON data_keys TO followup_app;
GRANT SELECT, INSERT, DELETE ON idempotency_keys TO followup_app;
GRANT SELECT, INSERT ON ml_performance_logs TO followup_app;
GRANT SELECT, INSERT, UPDATE ON ml_batch_jobs TO followup_app;
GRANT SELECT, INSERT ON patient_outcomes TO followup_app;
"""

PREDICTION_COLUMNS = (
    "created_at, id, request_id, route, model_id, model_name, model_version, model_digest, variant, principal, roles,"
    " client_id, patient_id, purpose_of_use, ip_address, user_agent, key_id, input, result, confidence, cache_hit,"
    " inference_time_ms, latency_ms"
)
EVENT_COLUMNS = (
    "created_at, id, request_id, action, route, status, outcome, principal, roles, client_id, patient_id, patients,"
    " target, purpose_of_use, ip_address, user_agent, key_id, detail, latency_ms"
)


def upgrade() -> None:
    op.execute(CREATE_ROLES)
    op.execute(REFUSE_CHANGE)
    _extend_predictions()
    _create_trail_tables()
    _create_access_tables()
    op.execute(CARE_RELATIONS)
    op.add_column(
        "idempotency_keys", sa.Column("patients", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False)
    )
    schema = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    op.execute("CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT")
    _define_ensure_partitions(schema, "'ml_predictions', 'ml_performance_logs', 'audit_events'")
    op.execute("REVOKE ALL ON FUNCTION ensure_partitions(integer) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION ensure_partitions(integer) TO followup_app")
    op.execute("SELECT ensure_partitions(3)")
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
    for table in (*APPEND_ONLY, *_partitions("ml_predictions"), "audit_events_default"):
        op.execute(f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION refuse_change()")
    for table, unlinked, also in (
        ("ml_predictions", "patient_id IS NULL", "false"),
        ("audit_events", "true", NAMES_PATIENT),
    ):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY app_writes ON {table} FOR INSERT TO followup_app WITH CHECK (true)")
        op.execute(
            f"CREATE POLICY app_reads ON {table} FOR SELECT TO followup_app"
            f" USING ({MAY_READ.replace('{unlinked}', unlinked)} OR {also})"
        )
        op.execute(f"CREATE POLICY all_read ON {table} FOR SELECT TO followup_sealer, followup_auditor USING (true)")
    op.execute(
        GRANTS.replace("{schema}", schema)
        .replace("{prediction_columns}", PREDICTION_COLUMNS)
        .replace("{event_columns}", EVENT_COLUMNS)
    )


def _define_ensure_partitions(schema: str, parents: str) -> None:
    op.execute(ENSURE_PARTITIONS.replace("{schema}", schema).replace("{parents}", parents))


def _partitions(parent: str) -> list[str]:
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass(:parent)"
    return [row[0] for row in op.get_bind().execute(sa.text(query), {"parent": parent})]


def _extend_predictions() -> None:
    op.drop_column("ml_predictions", "key_version")
    op.add_column("ml_predictions", sa.Column("key_id", sa.Uuid(), server_default=FIRST_KEY, nullable=False))
    op.alter_column("ml_predictions", "key_id", server_default=None)
    op.add_column("ml_predictions", sa.Column("variant", sa.Text(), server_default="champion", nullable=False))
    op.alter_column("ml_predictions", "variant", server_default=None)
    op.execute("ALTER TABLE ml_predictions ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id()")
    op.create_index(op.f("ix_ml_predictions_xid"), "ml_predictions", ["xid"])
    op.create_check_constraint(op.f("ck_ml_predictions_principal"), "ml_predictions", "principal <> ''")
    op.create_check_constraint(op.f("ck_ml_predictions_time_of_id"), "ml_predictions", TIME_OF_ID)


def _create_trail_tables() -> None:
    op.create_table(
        "audit_events",
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=True),
        sa.Column("patients", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("purpose_of_use", sa.Text(), nullable=False),
        sa.Column("ip_address", postgresql.INET(), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("detail", sa.LargeBinary(), nullable=True),
        sa.Column("latency_ms", sa.REAL(), nullable=False),
        sa.CheckConstraint("principal <> ''", name=op.f("ck_audit_events_principal")),
        sa.CheckConstraint(TIME_OF_ID, name=op.f("ck_audit_events_time_of_id")),
        sa.PrimaryKeyConstraint("created_at", "id", name=op.f("pk_audit_events")),
        postgresql_partition_by="RANGE (created_at)",
    )
    op.execute("ALTER TABLE audit_events ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id()")
    op.create_index(op.f("ix_audit_events_xid"), "audit_events", ["xid"])
    for column in ("patient_id", "principal"):
        op.create_index(op.f(f"ix_audit_events_{column}_created_at_id"), "audit_events", [column, "created_at", "id"])
    op.create_index(
        op.f("ix_audit_events_target_action"),
        "audit_events",
        ["target", "action"],
        postgresql_where=sa.text("detail IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_audit_events_patients"),
        "audit_events",
        ["patients"],
        postgresql_using="gin",
        postgresql_where=sa.text("patients IS NOT NULL"),
    )
    op.create_table(
        "audit_leaves",
        sa.Column("leaf_index", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("row_id", sa.Uuid(), nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("source IN ('ml_predictions', 'audit_events')", name=op.f("ck_audit_leaves_source")),
        sa.PrimaryKeyConstraint("leaf_index", name=op.f("pk_audit_leaves")),
        sa.UniqueConstraint("row_id", "source", "created_at", name=op.f("uq_audit_leaves_row_id_source_created_at")),
    )
    op.create_table(
        "audit_nodes",
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("node_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "position", name=op.f("pk_audit_nodes")),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("tree_size", sa.BigInteger(), nullable=False),
        sa.Column("root_hash", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("horizon", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("tree_size", name=op.f("pk_audit_checkpoints")),
    )
    op.create_table(
        "audit_anchors",
        sa.Column("tree_size", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column(
            "anchored_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("tree_size", "place", name=op.f("pk_audit_anchors")),
    )
    op.create_table(
        "legal_holds",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("placed_by", sa.Text(), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("released_by", sa.Text(), nullable=True),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_legal_holds")),
    )


def _create_access_tables() -> None:
    op.create_table(
        "data_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("wrapping_key_id", sa.Text(), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("destroyed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(wrapped_key IS NULL) = (destroyed_at IS NOT NULL)", name=op.f("ck_data_keys_destroyed")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_keys")),
    )
    op.create_index(
        "uq_data_keys_subject", "data_keys", ["subject"], unique=True, postgresql_where=sa.text("destroyed_at IS NULL")
    )
    op.create_index(
        op.f("ix_data_keys_destroyed_at"),
        "data_keys",
        ["destroyed_at"],
        postgresql_where=sa.text("destroyed_at IS NOT NULL"),
    )
    op.create_table(
        "care_team",
        sa.Column("clinician", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("granted_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("clinician", "patient_id", name=op.f("pk_care_team")),
    )
    op.create_table(
        "break_glass",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("clinician", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.LargeBinary(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reviewed_by", sa.Text(), nullable=True),
        sa.Column("reviewed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "expires_at > started_at AND expires_at <= started_at + interval '60 minutes'",
            name=op.f("ck_break_glass_duration"),
        ),
        sa.CheckConstraint("reviewed_by <> clinician", name=op.f("ck_break_glass_reviewer")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_break_glass")),
    )
    op.create_index(op.f("ix_break_glass_clinician_expires_at"), "break_glass", ["clinician", "expires_at"])
    op.create_table(
        "revocations",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("revoked_by", sa.Text(), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('jti', 'origin_jti', 'sub')", name=op.f("ck_revocations_kind")),
        sa.PrimaryKeyConstraint("kind", "value", name=op.f("pk_revocations")),
    )
    op.create_table(
        "login_sessions",
        sa.Column("session", sa.LargeBinary(), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("session", name=op.f("pk_login_sessions")),
    )
    op.create_table(
        "model_signatures",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("meaning", sa.Text(), nullable=False),
        sa.Column("signer", sa.Text(), nullable=False),
        sa.Column("signed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("comment", sa.Text(), server_default="", nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint(
            "meaning IN ('registered', 'approved', 'rejected', 'promoted', 'rolled-back')",
            name=op.f("ck_model_signatures_meaning"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_signatures")),
    )
    op.create_index(
        op.f("ix_model_signatures_model_name_model_version"), "model_signatures", ["model_name", "model_version"]
    )
    op.create_table(
        "external_agreements",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("party", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("document_sha256", sa.Text(), nullable=False),
        sa.Column("expires_on", sa.Date(), nullable=False),
        sa.Column("signer", sa.Text(), nullable=False),
        sa.Column("signed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_external_agreements")),
    )


def downgrade() -> None:
    for table in (
        "external_agreements",
        "model_signatures",
        "login_sessions",
        "revocations",
        "legal_holds",
        "audit_anchors",
        "audit_checkpoints",
        "audit_nodes",
        "audit_leaves",
        "audit_events",
    ):
        op.drop_table(table)
    for policy in ("app_writes", "app_reads", "all_read"):
        op.execute(f"DROP POLICY {policy} ON ml_predictions")
    op.execute("ALTER TABLE ml_predictions DISABLE ROW LEVEL SECURITY")
    op.execute("DROP VIEW care_relations")
    for table in ("break_glass", "care_team", "data_keys"):
        op.drop_table(table)
    op.drop_column("idempotency_keys", "patients")
    schema = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    _define_ensure_partitions(schema, "'ml_performance_logs'")  # the first schema's downgrade drops it
    op.execute("DROP FUNCTION refuse_change() CASCADE")
    for constraint in ("principal", "time_of_id"):
        op.drop_constraint(op.f(f"ck_ml_predictions_{constraint}"), "ml_predictions")
    for column in ("xid", "variant", "key_id"):
        op.drop_column("ml_predictions", column)
    op.add_column("ml_predictions", sa.Column("key_version", sa.SmallInteger(), server_default="1", nullable=False))
    op.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {', '.join(ROLES)}")
    op.execute(f"REVOKE ALL ON SCHEMA {schema} FROM {', '.join(ROLES)}")
    op.execute("REVOKE ALL ON FUNCTION ensure_partitions(integer) FROM followup_app")
