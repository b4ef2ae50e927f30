"""How far transactions are finished: below the horizon no row of the trail can appear any more.

Transactions that still run hold the horizon, as long as they could write to the trail. One that never can must not: a
reader who keeps a transaction open would decide when others' records are sealed, and what is not sealed yet can be
changed unseen. Time-outs do not help, since any session may set its own.

Who runs a transaction is what the server's own lock table says: each holds an exclusive lock on its number. A role that
logged in may become any role that it is a member of, so all of those count; so do views, triggers and functions that
act with their owner's rights. What cannot be told (a prepared transaction, a session that has just gone) holds the
horizon: it is looked at again in the next pass.
"""

from collections.abc import Sequence
from typing import Any, Final, LiteralString

from psycopg import Connection

# Roles of PostgreSQL's own that only read.
_READING: Final = (
    "pg_monitor",
    "pg_read_all_data",
    "pg_read_all_settings",
    "pg_read_all_stats",
    "pg_stat_scan_tables",
    "pg_signal_backend",
)
_HOLDERS: Final[LiteralString] = """
SELECT DISTINCT pid FROM pg_locks
WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted AND pid IS NOT NULL
  AND transactionid::text::bigint = ANY (SELECT xid & 4294967295 FROM unnest(%(xids)s::bigint[]) AS xid)
"""
# Of these sessions, the ones that cannot write to the trail: those of other databases, and those whose role, with all
# that it may become, writes to nothing but its own and runs nothing with another's rights.
_HARMLESS: Final[LiteralString] = """
WITH sessions AS MATERIALIZED (
    SELECT a.pid, a.usesysid, a.datid = (SELECT oid FROM pg_database WHERE datname = current_database()) AS here
    FROM pg_stat_activity AS a WHERE a.pid = ANY (%(pids)s::int[]) AND a.datid <> 0
), trail AS MATERIALIZED (
    SELECT t.relid AS oid FROM unnest(ARRAY['ml_predictions', 'audit_events']) AS name, pg_partition_tree(name) AS t
), relations AS MATERIALIZED (
    SELECT c.oid, c.relowner, c.oid IN (SELECT oid FROM trail) AS is_trail,
           array(SELECT p.proowner FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
                 WHERE t.tgrelid = c.oid AND p.prosecdef) AS acts_for
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
), acting AS MATERIALIZED (
    SELECT p.oid, p.proowner FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.prosecdef AND n.nspname NOT IN ('pg_catalog', 'information_schema')
), logins AS MATERIALIZED (
    SELECT DISTINCT usesysid AS oid FROM sessions WHERE here AND usesysid IS NOT NULL
), writers AS MATERIALIZED (
    SELECT DISTINCT u.oid FROM logins AS u JOIN pg_roles AS r ON pg_has_role(u.oid, r.oid, 'MEMBER')
    WHERE r.rolsuper OR r.rolcreaterole
       OR (r.rolname LIKE 'pg\\_%%' AND r.rolname <> ALL (%(reading)s))
       OR EXISTS (SELECT FROM relations AS c
                  WHERE CASE WHEN c.relowner = u.oid THEN c.is_trail OR u.oid <> ANY (c.acts_for)
                        ELSE has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
                             OR has_any_column_privilege(r.oid, c.oid, 'INSERT, UPDATE') END)
       OR EXISTS (SELECT FROM acting AS p
                  WHERE p.proowner <> u.oid AND has_function_privilege(r.oid, p.oid, 'EXECUTE'))
)
SELECT pid FROM sessions WHERE NOT here
UNION ALL
SELECT s.pid FROM sessions AS s JOIN logins AS u ON u.oid = s.usesysid
WHERE s.here AND u.oid IN (SELECT oid FROM pg_roles) AND u.oid NOT IN (SELECT oid FROM writers)
"""
# Asked afterwards: a session that still holds the lock is the one that was looked at, whatever became of others.
_OLDEST_HELD: Final[LiteralString] = """
SELECT min(xid) FROM unnest(%(xids)s::bigint[]) AS xid
WHERE NOT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted
      AND transactionid::text::bigint = xid & 4294967295 AND pid = ANY (%(pids)s::int[]))
"""


def harmless(connection: Connection[Any], pids: Sequence[int]) -> list[int]:
    """Those of these sessions that cannot write to the trail, whatever they do."""
    found = connection.execute(_HARMLESS, {"pids": list(pids), "reading": list(_READING)})
    return [pid for (pid,) in found.fetchall()]


def finished_below(connection: Connection[Any], running: Sequence[int], following: int) -> int:
    """The horizon in a snapshot in which these transactions run and `following` is the first that there is not yet.

    Ask in the transaction of that snapshot: whoever held a lock then and holds it still has not changed.
    """
    if not running:
        return following
    xids = list(running)
    holders = [pid for (pid,) in connection.execute(_HOLDERS, {"xids": xids}).fetchall()]
    left_out = harmless(connection, holders) if holders else []
    if not left_out:
        return min(xids)
    oldest = connection.execute(_OLDEST_HELD, {"xids": xids, "pids": left_out}).fetchone()
    assert oldest is not None
    return following if oldest[0] is None else int(oldest[0])
