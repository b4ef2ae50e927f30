"""Who may see whom is changed by functions that take the change and its event and write both; one spelling of ids.

The server's role keeps its rights on the tables until 0005, so that servers of before go on during an upgrade:
`alembic upgrade 0004`, all servers, `alembic upgrade head`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# As database/subjects.py.
CANONICAL_SUBJECT = """
CREATE FUNCTION canonical_subject(subject text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN subject ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(@[0-9]+)?$'
                THEN lower(subject) ELSE subject END
$$
"""

# What was changed, by whom and about whom is said by the functions below, which know; from where, by the caller. It
# is not SECURITY DEFINER: by itself it may do no more than who calls it.
RECORD_CHANGE = """
CREATE FUNCTION record_change(event jsonb, actions text[], principal text, patient_id text, target text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT coalesce(event->>'action' = ANY (actions), false)
       OR NOT coalesce((event->>'status')::integer BETWEEN 200 AND 299, false)
       OR NOT coalesce(abs(extract(epoch FROM now() - (event->>'created_at')::timestamptz)) < 300, false) THEN
        RAISE EXCEPTION 'the event is not that of this change' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO audit_events (created_at, id, request_id, action, route, status, outcome, principal, roles, client_id,
        patient_id, target, purpose_of_use, ip_address, user_agent, latency_ms)
    VALUES ((event->>'created_at')::timestamptz, (event->>'id')::uuid, (event->>'request_id')::uuid, event->>'action',
        event->>'route', (event->>'status')::smallint, 'success', $3, event->>'roles', event->>'client_id', $4, $5,
        event->>'purpose_of_use', (event->>'ip_address')::inet, event->>'user_agent', (event->>'latency_ms')::real);
END $$
"""

GRANT_CARE_TEAM = """
CREATE FUNCTION grant_care_team(who text, whom text, days integer, by_whom text, event jsonb)
RETURNS SETOF care_team LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
    member text := canonical_subject(who);
    patient text := canonical_subject(whom);
    ends timestamptz := now() + make_interval(days => days);
BEGIN
    IF member = canonical_subject(by_whom) THEN
        RAISE EXCEPTION 'nobody puts themselves on a care team' USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- A relation that goes on keeps its beginning.
    UPDATE care_team AS team
    SET until = ends, granted_by = by_whom, since = CASE WHEN team.until <= now() THEN now() ELSE team.since END
    WHERE canonical_subject(team.clinician) = member AND canonical_subject(team.patient_id) = patient;
    IF NOT FOUND THEN
        INSERT INTO care_team AS team (clinician, patient_id, until, granted_by)
        VALUES (member, patient, ends, by_whom)
        ON CONFLICT (clinician, patient_id) DO UPDATE SET until = excluded.until, granted_by = excluded.granted_by,
            since = CASE WHEN team.until <= now() THEN now() ELSE team.since END;
    END IF;
    PERFORM record_change(event, ARRAY['configure', 'grant care team'], by_whom, patient, member);
    RETURN QUERY SELECT * FROM care_team AS team
        WHERE canonical_subject(team.clinician) = member AND canonical_subject(team.patient_id) = patient;
END $$
"""

WITHDRAW_CARE_TEAM = """
CREATE FUNCTION withdraw_care_team(who text, whom text, by_whom text, event jsonb)
RETURNS SETOF care_team LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
    member text := canonical_subject(who);
    patient text := canonical_subject(whom);
BEGIN
    RETURN QUERY UPDATE care_team AS team SET until = now()
        WHERE canonical_subject(team.clinician) = member AND canonical_subject(team.patient_id) = patient
          AND (team.until IS NULL OR team.until > now())
        RETURNING team.*;
    IF FOUND THEN
        PERFORM record_change(event, ARRAY['configure', 'withdraw care team'], by_whom, patient, member);
    END IF;
END $$
"""

# Above the ceiling it is not refused, for emergencies come at night, but shorter and confirmed once more. The table's
# lock makes one count after the other; no role that may read only can hold it up.
BREAK_THE_GLASS = """
CREATE FUNCTION break_the_glass(break_id uuid, who text, whom text, reason_key uuid, sealed_reason bytea,
    minutes integer, confirmed integer, most_open integer, most_a_day integer, hard_stop boolean, event jsonb)
RETURNS TABLE (outcome text, ends timestamptz, open_now integer, of_the_day integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
    member text := canonical_subject(who);
    patient text := canonical_subject(whom);
    above boolean;
BEGIN
    LOCK TABLE break_glass IN SHARE ROW EXCLUSIVE MODE;
    SELECT count(*) FILTER (WHERE expires_at > now() AND reviewed_at IS NULL),
           count(*) FILTER (WHERE started_at > now() - interval '1 day')
        INTO open_now, of_the_day
        FROM break_glass WHERE canonical_subject(clinician) = member AND expires_at > now() - interval '1 day';
    above := (open_now < most_open AND of_the_day < most_a_day) IS NOT TRUE;
    -- A confirmation is for the next one after so many, and so for one.
    IF above AND (hard_stop IS NOT FALSE OR confirmed IS DISTINCT FROM of_the_day) THEN
        outcome := CASE WHEN hard_stop IS NOT FALSE THEN 'stopped' ELSE 'unconfirmed' END;
        RETURN NEXT;
        RETURN;
    END IF;
    outcome := CASE WHEN above THEN 'above' ELSE 'broken' END;
    ends := now() + make_interval(mins => CASE WHEN above THEN least(minutes, 10) ELSE minutes END);
    INSERT INTO break_glass (id, clinician, patient_id, key_id, reason, started_at, expires_at, above_ceiling)
    VALUES (break_id, member, patient, reason_key, sealed_reason, now(), ends, above);
    PERFORM record_change(event, ARRAY['break glass'], member, patient, break_id::text);
    RETURN NEXT;
END $$
"""

REVIEW_BREAK_GLASS = """
CREATE FUNCTION review_break_glass(break_id uuid, by_whom text, event jsonb)
RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
    patient text;
BEGIN
    UPDATE break_glass SET reviewed_by = by_whom, reviewed_at = now()
        WHERE id = break_id AND reviewed_at IS NULL AND canonical_subject(clinician) <> canonical_subject(by_whom)
        RETURNING canonical_subject(patient_id) INTO patient;
    IF FOUND THEN
        PERFORM record_change(event, ARRAY['review break-glass'], by_whom, patient, break_id::text);
        RETURN NEXT patient;
    END IF;
END $$
"""

# A revocation is never shortened.
REVOKE_ACCESS = """
CREATE FUNCTION revoke_access(of_kind text, named text, hours integer, by_whom text, event jsonb)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
    one text := canonical_subject(named);
    ends timestamptz := now() + make_interval(hours => hours);
BEGIN
    UPDATE revocations AS known SET revoked_by = by_whom, revoked_at = now(),
        until = CASE WHEN known.until IS NULL OR ends IS NULL THEN NULL ELSE greatest(known.until, ends) END
        WHERE known.kind = of_kind AND canonical_subject(known.value) = one;
    IF NOT FOUND THEN
        INSERT INTO revocations AS known (kind, value, revoked_by, until) VALUES (of_kind, one, by_whom, ends)
        ON CONFLICT (kind, value) DO UPDATE SET revoked_by = excluded.revoked_by, revoked_at = now(),
            until = CASE WHEN known.until IS NULL OR ends IS NULL THEN NULL ELSE greatest(known.until, ends) END;
    END IF;
    PERFORM record_change(event, ARRAY['configure', 'revoke'], by_whom, NULL, of_kind || ':' || one);
END $$
"""

# When a login was last seen only goes forward, and not into the future.
TOUCH_SESSIONS = """
CREATE FUNCTION touch_sessions(logins bytea[], moments timestamptz[])
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    INSERT INTO login_sessions AS known (session, last_seen)
    SELECT login, least(moment, now() + interval '30 seconds') FROM unnest(logins, moments) AS seen (login, moment)
    ON CONFLICT (session) DO UPDATE SET last_seen = greatest(known.last_seen, excluded.last_seen)
$$
"""

FORGET_SESSIONS = """
CREATE FUNCTION forget_sessions() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    DELETE FROM login_sessions WHERE last_seen < now() - interval '30 days'
$$
"""

FORGET_IDEMPOTENCY_KEYS = """
CREATE FUNCTION forget_idempotency_keys()
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    DELETE FROM idempotency_keys WHERE created_at < now() - interval '24 hours'
$$
"""

CHANGES = {
    "grant_care_team(text, text, integer, text, jsonb)": GRANT_CARE_TEAM,
    "withdraw_care_team(text, text, text, jsonb)": WITHDRAW_CARE_TEAM,
    "break_the_glass(uuid, text, text, uuid, bytea, integer, integer, integer, integer, boolean, jsonb)": (
        BREAK_THE_GLASS
    ),
    "review_break_glass(uuid, text, jsonb)": REVIEW_BREAK_GLASS,
    "revoke_access(text, text, integer, text, jsonb)": REVOKE_ACCESS,
    "touch_sessions(bytea[], timestamptz[])": TOUCH_SESSIONS,
    "forget_sessions()": FORGET_SESSIONS,
    "forget_idempotency_keys()": FORGET_IDEMPOTENCY_KEYS,
}

CARE_RELATIONS = """
CREATE OR REPLACE VIEW care_relations AS
    SELECT {clinician} AS clinician, {patient} AS patient_id FROM care_team
    WHERE since <= now() AND (until IS NULL OR until > now())
    UNION
    SELECT {clinician} AS clinician, {patient} AS patient_id FROM break_glass
    WHERE started_at <= now() AND expires_at > now()
"""

# As in 0002, by the one spelling of ids. The server states that spelling.
MAY_READ = """
    current_setting('followup.everything', true) = 'on'
    OR ({principal} = current_setting('followup.author', true) AND {unlinked})
    OR {principal} = NULLIF(current_setting('followup.own_log', true), '')
    OR {patient} = NULLIF(current_setting('followup.patient', true), '')
    OR {patient} IN (
        SELECT patient_id FROM care_relations WHERE clinician = NULLIF(current_setting('followup.clinician', true), ''))
"""
NAMES_PATIENT = """EXISTS (
    SELECT FROM unnest(patients) AS named WHERE {named} = NULLIF(current_setting('followup.patient', true), ''))"""

# What the server's own role may put into the log: nothing that a reader of it could not carry, and no statement of
# the seal key, which it does not have; a copy of an old one would be a finding for ever.
FITS = {
    "audit_events": """
        octet_length(concat(action, route, outcome, principal, roles, client_id, patient_id, target, user_agent))
            <= 65536
        AND coalesce(octet_length(detail), 0) <= 1048576
        AND coalesce(array_ndims(patients), 1) = 1 AND coalesce(octet_length(patients::text), 0) <= 262144
        AND action <> ALL (ARRAY['archive partition', 'restore trail'])
    """,
    "ml_predictions": """
        octet_length(concat(route, model_name, model_version, model_digest, variant, principal, roles, client_id,
            patient_id, user_agent)) <= 65536
        AND octet_length(input) + octet_length(result) <= 4194304
    """,
}

# A role that only reads must leave connections for those who write. Where the owner may not say so, an administrator
# does: docs/deploying.md.
LIMIT_READERS = """
DO $$ BEGIN
    ALTER ROLE followup_auditor CONNECTION LIMIT 10;
EXCEPTION WHEN insufficient_privilege THEN NULL;
END $$
"""

# Any role of the database may take an advisory lock, and so keep months from being made. Only who writes to this
# table may hold up this lock.
LOCK_BY_TABLE = "LOCK TABLE ml_performance_logs IN SHARE ROW EXCLUSIVE MODE"
LOCK_BY_NUMBER = "PERFORM pg_advisory_xact_lock(20220003)"


def upgrade() -> None:
    schema = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    op.execute(CANONICAL_SUBJECT)
    op.add_column(
        "break_glass", sa.Column("above_ceiling", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    for table in ("care_team", "break_glass"):
        op.create_index(
            f"ix_{table}_one_spelling",
            table,
            [sa.text("canonical_subject(clinician)"), sa.text("canonical_subject(patient_id)")],
        )
    op.execute(RECORD_CHANGE)
    op.execute("REVOKE ALL ON FUNCTION record_change(jsonb, text[], text, text, text) FROM PUBLIC")
    for name, definition in CHANGES.items():
        op.execute(definition.replace("{schema}", schema))
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {name} TO followup_app")
    _relate("canonical_subject({})")
    for table, fits in FITS.items():
        op.execute(f"ALTER POLICY app_writes ON {table} WITH CHECK ({fits})")
    op.execute(LIMIT_READERS)
    _lock_partitions(LOCK_BY_NUMBER, LOCK_BY_TABLE)


def _relate(spelled: str) -> None:
    """Make the view and the policies with ids spelled so."""
    spell = spelled.format
    op.execute(CARE_RELATIONS.format(clinician=spell("clinician"), patient=spell("patient_id")))
    for table, unlinked, also in (
        ("ml_predictions", "patient_id IS NULL", "false"),
        ("audit_events", "true", NAMES_PATIENT.format(named=spell("named"))),
    ):
        seen = MAY_READ.format(principal=spell("principal"), patient=spell("patient_id"), unlinked=unlinked)
        op.execute(f"ALTER POLICY app_reads ON {table} USING ({seen} OR {also})")


def _lock_partitions(old: str, new: str) -> None:
    query = "SELECT pg_get_functiondef('ensure_partitions(integer)'::regprocedure)"
    definition = op.get_bind().execute(sa.text(query)).scalar_one()
    assert old in definition
    op.execute(sa.text(definition.replace(old, new).replace(":", r"\:")))


def downgrade() -> None:
    _lock_partitions(LOCK_BY_TABLE, LOCK_BY_NUMBER)
    _relate("{}")
    for table in FITS:
        op.execute(f"ALTER POLICY app_writes ON {table} WITH CHECK (true)")
    for name in CHANGES:
        op.execute(f"DROP FUNCTION {name}")
    op.execute("DROP FUNCTION record_change(jsonb, text[], text, text, text)")
    for table in ("care_team", "break_glass"):
        op.drop_index(f"ix_{table}_one_spelling", table_name=table)
    op.drop_column("break_glass", "above_ceiling")
    op.execute("DROP FUNCTION canonical_subject(text)")
