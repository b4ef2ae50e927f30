"""Signed acts on models: who did what, when and with which meaning, bound to the digest of the model's files.

A signature (Ed25519) is over the canonical statement of the act, so it says nothing about another model, another
version or other files. The key is derived from one that is wrapped by the key-encryption key: whoever has the database
alone cannot sign.

All acts on the versions of one model are a chain: each statement has the SHA-256 of the signature before it, so that
one that was taken out, put in or moved breaks it, and nothing of that model loads. The last acts can be taken out
without a trace here; the trail has the event of each.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Final, Literal

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Connection, insert, select, text

from database.tables import ModelSignature
from errors import SetupError

Meaning = Literal["registered", "approved", "rejected", "promoted", "rolled-back"]
PURPOSE: Final = "model signatures"  # what the key is derived for
CHALLENGER: Final = "challenger"  # the comment of a promotion that lets nothing answer
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
    """One act, as the table has it; `previous` is the SHA-256 (hex) of the signature before it, empty for the first."""

    model_name: str
    model_version: str
    model_digest: str
    meaning: str
    signer: str
    signed_at: datetime
    comment: str
    signature: bytes = b""
    previous: str = ""

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
                "previous": self.previous,
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
        """Write a signed act at the end of the model's chain."""
        # Two acts at the same time must not follow the same one; held until the transaction ends. Not an advisory lock:
        # that any role of the database may take, and hold everybody up.
        connection.execute(text("LOCK TABLE model_signatures IN SHARE ROW EXCLUSIVE MODE"))
        before = chain_of(connection, name)
        act = Signature(
            model_name=name,
            model_version=version,
            model_digest=digest,
            meaning=meaning,
            signer=self.subject,
            signed_at=datetime.now(UTC),
            comment=comment,
            previous=_link(before[-1]) if before else "",
        )
        values = {column.name: getattr(act, column.name) for column in _COLUMNS}
        connection.execute(insert(ModelSignature).values({**values, "signature": self.key.sign(act.statement)}))


def chain_of(connection: Connection, name: str) -> Sequence[Signature]:
    """All acts on the versions of a model, oldest first; their signatures are not checked here."""
    query = select(*_COLUMNS).where(_ROW.model_name == name).order_by(_ROW.id)
    acts: list[Signature] = []
    for row in connection.execute(query).mappings():
        acts.append(replace(Signature(**row), previous=_link(acts[-1]) if acts else ""))
    return acts


def _link(act: Signature) -> str:
    return hashlib.sha256(act.signature).hexdigest()


def acts_on(connection: Connection, name: str, version: str) -> Sequence[Signature]:
    """All acts on a version, oldest first; their signatures are not checked here."""
    return [act for act in chain_of(connection, name) if act.model_version == version]


@dataclass(frozen=True, slots=True)
class Standing:
    """What the signed acts say of one version and its files.

    `authors` registered it. `approved`: by somebody else, and nobody took it back since. `promoted`: after that, and no
    other version of the model was after it.
    """

    authors: Collection[str]
    approved: bool
    promoted: bool


def standing(connection: Connection, *, name: str, version: str, digest: str, key: SigningKey) -> Standing:
    """What holds of a version. Raises SetupError when the chain of the model's acts is broken."""
    acts = chain_of(connection, name)
    if not all(key.signed(act.signature, act.statement) for act in acts):
        raise SetupError(f"The chain of signed acts on {name} is broken: one was taken out, put in or changed.")
    ours = [act for act in acts if act.model_version == version and act.model_digest == digest]
    authors = {act.signer for act in ours if act.meaning == "registered"}
    approved = promoted = False
    for act in acts:
        if act.meaning in {"promoted", "rolled-back"}:
            if act.comment != CHALLENGER:
                promoted = act in ours and approved
        elif act in ours and act.meaning == "rejected":
            approved = promoted = False
        elif act in ours and act.meaning == "approved":
            approved = approved or (bool(authors) and act.signer not in authors)
    return Standing(authors, approved, promoted)


def require_approval(
    connection: Connection, *, name: str, version: str, digest: str, key: SigningKey, promoted: bool = False
) -> None:
    """Raises SetupError unless somebody other than the author approved exactly these files and nobody took it back.

    With `promoted` also unless it is the version that was signed to answer last.
    """
    found = standing(connection, name=name, version=version, digest=digest, key=key)
    if not found.approved:
        raise SetupError(f"{name}:{version} is not approved by anybody but its author: followup models approve")
    if promoted and not found.promoted:
        raise SetupError(f"{name}:{version} is not the version that was promoted last: followup models promote")
