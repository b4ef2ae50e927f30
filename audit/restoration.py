"""A signed statement that the database was restored from a backup, from which the sealer goes on.

After a restore the database is behind what was signed last, and nobody may sign what is left as if that were all: that
is just what an administrator would want who cut records off. The statement says so for good. It names what was signed
last and what the restored tree is, is signed with the seal key, which an owner of the database does not have, and
becomes the very next leaf of the tree, where every verifier finds it. It brings no record back.
"""

import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, LiteralString
from uuid import UUID

import rfc8785
import sqlalchemy
from psycopg import Connection

from audit.canonical import EVENTS, leaf_bytes, row, selection
from audit.checkpoint import TIME, BadNote, Checkpoint, Signer, Verifier, decoded, encoded
from audit.erasure import record_event
from audit.last_signed import LastSigned
from audit.merkle import leaf_hash
from audit.record import Event, created_at
from audit.stored_tree import Head, StoredTree
from database.tables import AuditRestoration
from errors import SetupError

RESTORED: Final = "restore trail"  # the verifier knows it by these words
STATEMENT: Final = "followup-audit-restored/1"  # what is signed begins with this line
LONGEST_REASON: Final = 500
MOST_PASTS: Final = 16
_STATED: Final[LiteralString] = f"""
SELECT r.id, l.leaf_index, {selection(EVENTS)}
FROM audit_restorations AS s JOIN audit_events AS r ON r.created_at = s.created_at AND r.id = s.event_id
LEFT JOIN audit_leaves AS l ON l.row_id = r.id AND l.source = 'audit_events' AND l.created_at = r.created_at
ORDER BY s.created_at
"""  # noqa: S608 - no value is put into the text


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """What was signed last, what was restored, and the first transaction that may come after."""

    origin: str
    signed_last: Checkpoint
    also_lost: tuple[Checkpoint, ...] = ()  # what was signed before an earlier restore, and is not in this tree either
    size: int
    root: bytes
    xid: int
    by: str
    reason: str
    time: datetime

    @property
    def document(self) -> dict[str, Any]:
        return {
            "origin": self.origin,
            "signed_last": _shown(self.signed_last),
            "also_lost": [_shown(lost) for lost in self.also_lost],
            "restored": {"size": self.size, "root": encoded(self.root)},
            "xid": self.xid,
            "by": self.by,
            "reason": self.reason,
            "time": self.time.astimezone(UTC).strftime(TIME),
        }

    def signed(self, signer: Signer) -> str:
        """The target of the event that says it: canonical JSON."""
        signature = signer.signature(f"{STATEMENT}\n{rfc8785.dumps(self.document).decode()}")
        return rfc8785.dumps({"signature": signature, "statement": self.document}).decode()

    @classmethod
    def read(cls, target: str, verifier: Verifier) -> "Restoration":
        """Raises BadNote unless that key signed it and it is of that log."""
        try:
            said = json.loads(target)
            statement = said["statement"]
            origin, restored = statement["origin"], statement["restored"]
            read = cls(
                origin=origin,
                signed_last=_read(origin, statement["signed_last"]),
                also_lost=tuple(_read(origin, lost) for lost in statement["also_lost"]),
                size=restored["size"],
                root=decoded(restored["root"]),
                xid=statement["xid"],
                by=statement["by"],
                reason=statement["reason"],
                time=_time(statement["time"]),
            )
            text = f"{STATEMENT}\n{rfc8785.dumps(read.document).decode()}"
            if statement != read.document or read.origin != verifier.name:
                raise BadNote("The statement has not the form of one.")
            if not verifier.holds(text, said["signature"]):
                raise BadNote("The statement is not signed with this key.")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
            raise BadNote("The statement has not the form of one.") from error
        return read

    def is_from(self, known: Checkpoint) -> bool:
        """Whether that is what the statement says was signed last."""
        return (known.size, known.root) == (self.signed_last.size, self.signed_last.root)

    def explains(self, known: Checkpoint) -> bool:
        """Whether a checkpoint is one of those that were lost."""
        return any(_leads_to(self.size, known, last) for last in (self.signed_last, *self.also_lost))


def _leads_to(size: int, known: Checkpoint, last: Checkpoint) -> bool:
    """Whether a checkpoint may be one between `size` leaves and the last that was signed then, or is that."""
    if (known.size, known.root) == (last.size, last.root):
        return True
    return size < known.size < last.size and known.time <= last.time and known.horizon <= last.horizon


@dataclass(frozen=True, slots=True)
class Stated:
    """A restoration with the event that says it, and where that is sealed."""

    restoration: Restoration
    event_id: UUID
    leaf: bytes
    index: int | None


def stated(connection: Connection[Any], verifier: Verifier) -> list[Stated]:
    """The restorations that are in this database and signed with the key, oldest first."""
    found = []
    for event_id, index, *values in connection.execute(_STATED).fetchall():
        sealed = row(EVENTS, values)
        try:
            restoration = Restoration.read(sealed.get("target", ""), verifier)
        except BadNote:
            continue
        if (sealed["action"], sealed["outcome"]) == (RESTORED, "success"):
            found.append(Stated(restoration, event_id, leaf_hash(leaf_bytes(EVENTS, sealed)), index))
    return found


def state(
    connection: Connection[Any], verifier: Verifier, last: LastSigned, *, by: str, reason: str, now: datetime
) -> Restoration:
    """What is to be signed about this database, in its transaction; no sealer works until that ends.

    Raises SetupError where nothing was restored, or where what was signed last is not known.
    """
    if not 1 <= len(reason.strip()) <= LONGEST_REASON:
        raise SetupError(f"Say why, in at most {LONGEST_REASON} characters.")
    if connection.execute("SELECT id FROM sealing_turn FOR UPDATE SKIP LOCKED").fetchone() is None:
        raise SetupError("A sealer is at work on this database.")
    tree = StoredTree(connection, verifier)
    head = tree.head()
    size = head.frontier.size
    known = last.everything(above=size)
    if not known:
        raise SetupError("Neither SEAL_STATE_FILE nor AUDIT_ANCHOR says what was signed last.")
    signed_last = max(known, key=lambda checkpoint: checkpoint.time)
    oldest, following = _transactions(connection)
    _refuse_what_is_no_restore(tree, head, signed_last, following)
    return Restoration(
        origin=verifier.name,
        signed_last=signed_last,
        also_lost=_others(size, signed_last, known),
        size=size,
        root=head.frontier.root,
        xid=oldest,
        by=by,
        reason=reason.strip(),
        time=now,
    )


def put_on_record(connection: sqlalchemy.Connection, event: Event) -> None:
    """The event that carries the statement, in the transaction in which it was made."""
    record_event(connection, event)
    connection.execute(sqlalchemy.insert(AuditRestoration).values(created_at=created_at(event.id), event_id=event.id))


def _others(size: int, signed_last: Checkpoint, known: Iterable[Checkpoint]) -> tuple[Checkpoint, ...]:
    """The largest of each past that `signed_last` does not continue."""
    heads = [signed_last]
    for one in sorted(known, key=lambda checkpoint: (checkpoint.size, checkpoint.time), reverse=True):
        if one.size > size and not any(_leads_to(size, one, head) for head in heads):
            heads.append(one)
    if len(heads) > MOST_PASTS:
        raise SetupError("The anchors are of too many pasts to be stated: keep those of this log in their own place.")
    return tuple(heads[1:])


def _refuse_what_is_no_restore(tree: StoredTree, head: Head, signed_last: Checkpoint, following: int) -> None:
    if tree.begins_with(signed_last, head) and following >= head.horizon:
        raise SetupError("The database continues what was signed last: nothing is to be stated.")
    if head.frontier.size > signed_last.size:
        raise SetupError("The stored tree is larger than what was signed last, and does not continue it.")
    if head.frontier.size == signed_last.size and head.frontier.root != signed_last.root:
        raise SetupError("The stored tree is as large as what was signed last, and another: the trail was rewritten.")


def _transactions(connection: Connection[Any]) -> tuple[int, int]:
    found = connection.execute(
        "SELECT pg_snapshot_xmin(now)::text::bigint, pg_snapshot_xmax(now)::text::bigint"
        " FROM pg_current_snapshot() AS now"
    ).fetchone()
    assert found is not None
    return int(found[0]), int(found[1])


def _shown(last: Checkpoint) -> dict[str, Any]:
    time = last.time.astimezone(UTC).strftime(TIME)
    return {"size": last.size, "root": encoded(last.root), "time": time, "horizon": last.horizon}


def _read(origin: str, said: Any) -> Checkpoint:
    return Checkpoint(origin, said["size"], decoded(said["root"]), _time(said["time"]), said["horizon"])


def _time(text: str) -> datetime:
    return datetime.strptime(text, TIME).replace(tzinfo=UTC)
