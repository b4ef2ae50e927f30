"""Whoever writes a row, by whichever way: no reader of the trail fails over it, or has to carry more than its limits.

Until here policies said so, which hold for no function that runs as the tables' owner. The tables themselves say it
now, of each column; of rows from before nothing is said, so nothing has to be read.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# As database/tables.py.
FITS = {
    "audit_events": (
        "octet_length(concat(action, route, outcome, principal, roles, client_id, patient_id, target, purpose_of_use,"
        " user_agent)) <= 65536"
        " AND coalesce(octet_length(detail), 0) <= 1048576"
        " AND (patients IS NULL OR patients = '{}' OR array_ndims(patients) = 1 AND array_lower(patients, 1) = 1"
        " AND array_position(patients, NULL) IS NULL AND octet_length(patients::text) <= 262144)"
    ),
    "ml_predictions": (
        "octet_length(concat(route, model_name, model_version, model_digest, variant, principal, roles, client_id,"
        " patient_id, purpose_of_use, user_agent)) <= 65536"
        " AND octet_length(input) + octet_length(result) <= 4194304"
        " AND coalesce(octet_length(answer_commitment), 32) = 32"
    ),
    "break_glass": "octet_length(reason) <= 65536",
    "data_keys": ("octet_length(concat(subject, wrapping_key_id)) + coalesce(octet_length(wrapped_key), 0) <= 65536"),
}

# What a policy says of the server's role alone: it has not the seal key, whose statements these are.
POLICIES = {"audit_events": "action <> ALL (ARRAY['archive partition', 'restore trail'])", "ml_predictions": "true"}
POLICIES_BEFORE = {
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

# A negative time would take away under an event that says "give".
GUARDS = {
    "grant_care_team(text, text, integer, text, jsonb)": "days < 1",
    "break_the_glass(uuid, text, text, uuid, bytea, integer, integer, integer, integer, boolean, jsonb)": (
        "minutes IS NULL OR minutes < 1"
    ),
    "revoke_access(text, text, integer, text, jsonb)": "hours < 1",
}
GUARD = """
    IF {refused} THEN
        RAISE EXCEPTION 'it ends before it begins' USING ERRCODE = 'invalid_parameter_value';
    END IF;"""


def upgrade() -> None:
    for table, fits in FITS.items():
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT ck_{table}_fits CHECK ({fits}) NOT VALID")
    for table, policy in POLICIES.items():
        op.execute(f"ALTER POLICY app_writes ON {table} WITH CHECK ({policy})")
    for function, refused in GUARDS.items():
        _redefine(function, "\nBEGIN", "\nBEGIN" + GUARD.format(refused=refused))


def _redefine(function: str, old: str, new: str) -> None:
    query = f"SELECT pg_get_functiondef('{function}'::regprocedure)"
    definition = op.get_bind().execute(sa.text(query)).scalar_one()
    assert definition.count(old) == 1
    op.execute(sa.text(definition.replace(old, new).replace(":", r"\:")))


def downgrade() -> None:
    for function, refused in GUARDS.items():
        _redefine(function, GUARD.format(refused=refused), "")
    for table, policy in POLICIES_BEFORE.items():
        op.execute(f"ALTER POLICY app_writes ON {table} WITH CHECK ({policy})")
    for table in FITS:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_fits")
