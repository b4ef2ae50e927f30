"""The server's role loses its rights to change, without an event, who may see whom. After all servers are of 0004."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

RIGHTS = (
    "INSERT, UPDATE ON care_team",
    "INSERT, UPDATE (reviewed_by, reviewed_at) ON break_glass",
    "INSERT, UPDATE (until, revoked_by, revoked_at) ON revocations",
    "INSERT, UPDATE, DELETE ON login_sessions",
    "DELETE ON idempotency_keys",
)


def upgrade() -> None:
    for right in RIGHTS:
        op.execute(f"REVOKE {right} FROM followup_app")


def downgrade() -> None:
    for right in RIGHTS:
        op.execute(f"GRANT {right} TO followup_app")
