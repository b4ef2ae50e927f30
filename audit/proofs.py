"""Proofs from the stored tree: that a prediction is in it, and that it only ever grew."""

import base64
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from sqlalchemy import Connection

from audit import merkle
from audit.canonical import PREDICTIONS, leaf_bytes, row, selection
from audit.merkle import Node
from audit.record import created_at
from audit.sealing import OLDEST_UNSEALED
from audit.stored_tree import NODES, node_parameters
from database.reading import EVERYTHING, state
from errors import InternalFault, NotFound, NotSealedYet

_CHECKPOINT: Final[LiteralString] = "SELECT tree_size, note FROM audit_checkpoints"


def seal_lag(connection: Connection) -> float:
    """Age in seconds of the oldest row that is not sealed, 0 if there is none."""
    state(connection, EVERYTHING)
    return float(connection.exec_driver_sql(OLDEST_UNSEALED).scalar() or 0.0)


def newest_checkpoint(connection: Connection) -> tuple[int, str]:
    """(size, signed note). Raises NotFound when nothing was sealed yet."""
    found = connection.exec_driver_sql(f"{_CHECKPOINT} ORDER BY tree_size DESC LIMIT 1").fetchone()
    if found is None:
        raise NotFound("Nothing is sealed yet.")
    return int(found[0]), str(found[1])


def inclusion(connection: Connection, prediction_id: UUID) -> dict[str, Any]:
    """The proof for one prediction, with the row as it was hashed.

    Raises NotFound when there is no such prediction, NotSealedYet when its turn has not come.
    """
    state(connection, EVERYTHING)
    at = _time_of(prediction_id)
    stored = _stored(connection, prediction_id, at)
    leaf = connection.exec_driver_sql(
        "SELECT leaf_index, leaf_hash FROM audit_leaves"
        " WHERE row_id = %(id)s AND source = 'ml_predictions' AND created_at = %(at)s",
        {"id": prediction_id, "at": at},
    ).fetchone()
    if leaf is None and stored is None:
        raise NotFound("There is no such prediction.")
    if leaf is None:
        raise NotSealedYet("The record is not sealed yet.", retry_after_s=1)
    size, note = newest_checkpoint(connection)
    path = _proof(connection, merkle.inclusion_path(leaf[0], size))
    return {
        "prediction_id": str(prediction_id),
        "leaf_index": leaf[0],
        "leaf_hash": _base64(leaf[1]),
        "leaf": None if stored is None else leaf_bytes(PREDICTIONS, stored).decode(),  # null: the row is archived
        "tree_size": size,
        "inclusion_proof": path,
        "checkpoint": note,
    }


def consistency(connection: Connection, older: int, newer: int) -> dict[str, Any]:
    """The proof that the checkpoint of `newer` leaves continues that of `older`. Raises NotFound without the two."""
    notes = dict(
        connection.exec_driver_sql(
            f"{_CHECKPOINT} WHERE tree_size IN (%(older)s, %(newer)s)", {"older": older, "newer": newer}
        )
        .tuples()
        .all()
    )
    if older not in notes or newer not in notes or older > newer:
        raise NotFound("There are no two such checkpoints.")
    return {
        "from": older,
        "to": newer,
        "consistency_proof": _proof(connection, merkle.consistency_path(older, newer)),
        "from_checkpoint": notes[older],
        "to_checkpoint": notes[newer],
    }


def _time_of(prediction_id: UUID) -> datetime:
    try:
        return created_at(prediction_id)
    except (OverflowError, ValueError, OSError) as error:
        raise NotFound("There is no such prediction.") from error


def _stored(connection: Connection, prediction_id: UUID, at: datetime) -> dict[str, Any] | None:
    query = f"SELECT {selection(PREDICTIONS)} FROM ml_predictions AS r WHERE r.created_at = %(at)s AND r.id = %(id)s"  # noqa: S608
    found = connection.exec_driver_sql(query, {"at": at, "id": prediction_id}).fetchone()
    return None if found is None else row(PREDICTIONS, tuple(found))


def _proof(connection: Connection, path: list[merkle.Parts]) -> list[str]:
    parameters = node_parameters(tuple(merkle.needed(path)))
    hashes = {
        Node(level, position): bytes(hashed)
        for level, position, hashed in connection.exec_driver_sql(NODES, parameters)
    }
    try:
        return [_base64(part) for part in merkle.proof(path, hashes.__getitem__)]
    except KeyError as error:
        raise InternalFault("The stored tree has a gap.") from error


def _base64(hashed: bytes) -> str:
    return base64.b64encode(hashed).decode()
