"""Signed acts on models: who did what, when and with which meaning, bound to the digest of the model's files.

A signature (Ed25519) is over the canonical statement of the act, so it says nothing about another model, another
version or other files. The key is derived from one that is wrapped by the key-encryption key: whoever has the database
alone cannot sign.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Final, Literal

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Connection, insert, select

from database.tables import ModelSignature
from errors import SetupError

Meaning = Literal["registered", "approved", "rejected", "promoted", "rolled-back"]
PURPOSE: Final = "model signatures"  # what the key is derived for
_ROW: Final = ModelSignature.__table__.c
_COLUMNS: Final = tuple(column for column in _ROW if column.name != "id")


class SigningKey:
    """An Ed25519 key from a 32-byte seed, which is asked for at first use."""

    def __init__(self, seed: Callable[[], bytes]) -> None:
        self._seed = seed

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self._seed())

    @property
    def public_key(self) -> bytes:
        """32 bytes; with them anybody can check a signature."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def sign(self, statement: bytes) -> bytes:
        return self._key.sign(statement)

    def signed(self, signature: bytes, statement: bytes) -> bool:
        """Whether a signature over a statement is by this key."""
        try:
            self._key.public_key().verify(signature, statement)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One act, as the table has it."""

    model_name: str
    model_version: str
    model_digest: str
    meaning: str
    signer: str
    signed_at: datetime
    comment: str
    signature: bytes = b""

    @property
    def statement(self) -> bytes:
        """What is signed: RFC 8785 JSON."""
        return rfc8785.dumps(
            {
                "format": "followup-ml/model-signature/1",
                "model": f"{self.model_name}:{self.model_version}",
                "digest": self.model_digest,
                "meaning": self.meaning,
                "signer": self.signer,
                "signed_at": self.signed_at.astimezone(UTC).isoformat(),
                "comment": self.comment,
            }
        )


@dataclass(frozen=True, slots=True)
class Signer:
    """A person who signs, and the key it is done with."""

    subject: str
    key: SigningKey

    def sign(
        self, connection: Connection, *, name: str, version: str, digest: str, meaning: Meaning, comment: str = ""
    ) -> None:
        """Write a signed act."""
        act = Signature(
            model_name=name,
            model_version=version,
            model_digest=digest,
            meaning=meaning,
            signer=self.subject,
            signed_at=datetime.now(UTC),
            comment=comment,
        )
        values = {column.name: getattr(act, column.name) for column in _COLUMNS}
        connection.execute(insert(ModelSignature).values({**values, "signature": self.key.sign(act.statement)}))


def acts_on(connection: Connection, name: str, version: str) -> Sequence[Signature]:
    """All acts on a version, oldest first; their signatures are not checked here."""
    query = select(*_COLUMNS).where(_ROW.model_name == name, _ROW.model_version == version).order_by(_ROW.id)
    return [Signature(**row) for row in connection.execute(query).mappings()]


def require_approval(
    connection: Connection, *, name: str, version: str, digest: str, author: str, key: SigningKey
) -> None:
    """Raises SetupError unless somebody other than the author approved exactly these files and nobody took it back."""
    valid = [
        act
        for act in acts_on(connection, name, version)
        if act.model_digest == digest and key.signed(act.signature, act.statement)
    ]
    verdicts = [act.meaning for act in valid if act.meaning in {"approved", "rejected"} and act.signer != author]
    if not verdicts or verdicts[-1] != "approved":
        raise SetupError(f"{name}:{version} is not approved by anybody but its author: followup models approve")
