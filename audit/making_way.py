"""Ends sessions that stand in the sealer's way by waiting for a lock that they could never use.

PostgreSQL queues some commands for a table's strongest lock before it looks whether the role may give them at all, as
CREATE RULE. Behind a reader that keeps its transaction open such a command waits for ever, and everybody else waits
behind it: two sessions of a role that only reads would decide when records are sealed. Needs membership in
pg_signal_backend; without it the log says who stands there.
"""

import logging
from typing import Any, Final, LiteralString

import psycopg
from psycopg import Connection

from audit.horizon import harmless

log = logging.getLogger(__name__)

_WAITING: Final[LiteralString] = """
SELECT DISTINCT l.pid FROM pg_locks AS l
WHERE l.locktype = 'relation' AND NOT l.granted AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.pid <> pg_backend_pid()
"""


def make_way(connection: Connection[Any]) -> int:
    """End what stands in the way and cannot write to the trail. Returns how many sessions. Raises psycopg.Error."""
    waiting = [pid for (pid,) in connection.execute(_WAITING).fetchall()]
    ended = 0
    for pid in harmless(connection, waiting) if waiting else []:
        try:
            connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        except psycopg.errors.InsufficientPrivilege:
            log.error("sealer: session %d waits for a lock that it may not have, and holds up sealing: end it", pid)
        else:
            ended += 1
            log.error("sealer: session %d waited for a lock that it may not have, and was ended", pid)
    return ended
