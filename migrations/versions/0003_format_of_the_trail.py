"""Whose turn it is to seal, as a row that only the sealer's role may lock; and what each answer is committed to.

The new column may be null: a server of before goes on writing, and a leaf has no field for what is null.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
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
    op.add_column("ml_predictions", sa.Column("answer_commitment", sa.LargeBinary(), nullable=True))
    op.execute("GRANT INSERT (answer_commitment) ON ml_predictions TO followup_app")


def downgrade() -> None:
    op.drop_column("ml_predictions", "answer_commitment")
    op.drop_table("sealing_turn")
