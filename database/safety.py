"""What a server must not be able to do: refuses to start with a role that could rewrite the trail."""

import logging
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from errors import SetupError

log = logging.getLogger(__name__)

_RIGHTS: Final = text("""
    SELECT rolsuper OR rolbypassrls
           OR has_table_privilege(current_user, 'ml_predictions', 'UPDATE, DELETE, TRUNCATE')
           OR has_table_privilege(current_user, 'audit_events', 'UPDATE, DELETE, TRUNCATE')
           OR has_table_privilege(current_user, 'audit_leaves', 'INSERT')
           OR has_table_privilege(current_user, 'audit_checkpoints', 'INSERT')
    FROM pg_roles WHERE rolname = current_user
""")
# Rights of before migration 0005.
_CHANGES: Final = text("""
    SELECT has_table_privilege(current_user, 'care_team', 'INSERT, UPDATE, DELETE')
           OR has_any_column_privilege(current_user, 'break_glass', 'INSERT, UPDATE')
           OR has_any_column_privilege(current_user, 'revocations', 'INSERT, UPDATE')
""")


async def refuse_powerful_role(engine: AsyncEngine) -> None:
    """Raises SetupError when the role may change what was recorded, or seal it; warns of what an upgrade left."""
    async with engine.connect() as connection:
        if (await connection.execute(_RIGHTS)).scalar_one():
            raise SetupError(
                "DATABASE_URL's role could rewrite the audit trail: let the server log in as followup_app, and keep the"
                " owner for OWNER_DATABASE_URL."
            )
        if (await connection.execute(_CHANGES)).scalar_one():
            log.warning("DATABASE_URL's role can change who may see whom without an event: alembic upgrade head")
