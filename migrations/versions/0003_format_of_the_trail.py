"""Whose turn it is to seal, as a row that only the sealer's role may lock; restorations; commitments to answers.

The new column may be null: a server of before goes on writing, and a leaf has no field for what is null.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


# To end sessions that hold it up (audit/making_way.py). Only some owners may grant that: docs/deploying.md.
GRANT_SIGNAL = """
DO $$
BEGIN
    GRANT pg_signal_backend TO followup_sealer;
EXCEPTION WHEN insufficient_privilege THEN NULL;
END $$
"""


def upgrade() -> None:
    op.execute(GRANT_SIGNAL)
    op.create_table(
        "sealing_turn",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_sealing_turn_only")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sealing_turn")),
    )
    op.execute("INSERT INTO sealing_turn (id) VALUES (1)")
    # Nobody else is granted anything on it: whoever may SELECT may lock the table in some mode, whoever may UPDATE
    # the row.
    op.execute("REVOKE ALL ON sealing_turn FROM PUBLIC, followup_app, followup_auditor")
    op.execute("GRANT SELECT, UPDATE ON sealing_turn TO followup_sealer")
    # Where the sealer finds the events that say so; what counts in them is signed.
    op.create_table(
        "audit_restorations",
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("created_at", "event_id", name=op.f("pk_audit_restorations")),
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_restorations"
        " FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute("CREATE TRIGGER no_truncate BEFORE TRUNCATE ON audit_restorations EXECUTE FUNCTION refuse_change()")
    op.execute("GRANT SELECT ON audit_restorations TO followup_app, followup_sealer, followup_auditor")
    op.add_column("ml_predictions", sa.Column("answer_commitment", sa.LargeBinary(), nullable=True))
    op.execute("GRANT INSERT (answer_commitment) ON ml_predictions TO followup_app")


def downgrade() -> None:
    op.drop_column("ml_predictions", "answer_commitment")
    op.drop_table("audit_restorations")
    op.drop_table("sealing_turn")
