"""Signed checkpoints of the tree: C2SP tlog-checkpoint in a signed note, Ed25519.

    followup-ml                                   origin, which is the key's name too
    8317                                          leaves
    (Base64 of the root)
    time 2026-11-23T19:40:00.123456Z              when it was signed
    horizon 48211                                 rows of transactions below this one are in the tree, no others

    — followup-ml (Base64 of key id ‖ signature)

The last two lines of the body are extension lines. They are signed because the columns beside the note are not.
"""

import base64
import binascii
import hashlib
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from errors import SetupError

_ED25519: Final = b"\x01"
_NAME: Final = re.compile(r"[^\s+\u0000-\u001f]{1,128}")
TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


def encoded(raw: bytes) -> str:
    """Base64, as in notes."""
    return base64.b64encode(raw).decode()


def decoded(text: str) -> bytes:
    """The other way round. Raises ValueError."""
    return base64.b64decode(text, validate=True)


class BadNote(Exception):
    """A note that is not of the form, or not signed by this key."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says."""

    origin: str
    size: int
    root: bytes
    time: datetime
    horizon: int

    @property
    def body(self) -> str:
        root = base64.b64encode(self.root).decode()
        time = self.time.astimezone(UTC).strftime(TIME)
        return f"{self.origin}\n{self.size}\n{root}\ntime {time}\nhorizon {self.horizon}\n"

    @classmethod
    def parse(cls, body: str) -> Self:
        """Raises BadNote when it is not exactly of the form above."""
        try:
            origin, size, root, time, horizon, end = body.split("\n")
            read = cls(
                origin,
                int(size),
                base64.b64decode(root, validate=True),
                datetime.strptime(time.removeprefix("time "), TIME).replace(tzinfo=UTC),
                int(horizon.removeprefix("horizon ")),
            )
        except (ValueError, binascii.Error) as error:
            raise BadNote("The checkpoint has not the form of one.") from error
        if end or read.body != body:
            raise BadNote("The checkpoint has not the form of one.")
        return read


class Verifier:
    """A public key with its name, as notes know it."""

    def __init__(self, name: str, key: Ed25519PublicKey) -> None:
        if not _NAME.fullmatch(name):
            raise SetupError("A key's name must be 1 to 128 characters without blanks and plus signs.")
        self.name = name
        self._key = key
        self._encoded = _ED25519 + key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id = hashlib.sha256(name.encode() + b"\n" + self._encoded).digest()[:4]

    @classmethod
    def parse(cls, text: str) -> Self:
        """From name+hex+base64. Raises SetupError when it isn't that."""
        try:
            name, key_id, encoded = text.strip().split("+", 2)
            raw = base64.b64decode(encoded, validate=True)
            if raw[:1] != _ED25519:
                raise ValueError
            verifier = cls(name, Ed25519PublicKey.from_public_bytes(raw[1:]))
        except (ValueError, binascii.Error) as error:
            raise SetupError("A verifier key has the form name+id+key, with an Ed25519 key.") from error
        if verifier.key_id.hex() != key_id:
            raise SetupError("The verifier key's id is not that of its key.")
        return verifier

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self._encoded).decode()}"

    def open(self, note: str) -> str:
        """The text of a note. Raises BadNote unless this key signed it."""
        body, blank, signatures = note.rpartition("\n\n")
        if not blank or not signatures.endswith("\n"):
            raise BadNote("The note has not the form of one.")
        body += "\n"
        for line in signatures.splitlines():
            dash, _, rest = line.partition(" ")
            name, _, encoded = rest.partition(" ")
            if dash != "—" or name != self.name:
                continue
            try:
                raw = base64.b64decode(encoded, validate=True)
                if raw[:4] == self.key_id:
                    self._key.verify(raw[4:], body.encode())
                    return body
            except (InvalidSignature, ValueError, binascii.Error) as error:
                raise BadNote("The note's signature does not hold.") from error
        raise BadNote("The note is not signed with this key.")

    def holds(self, text: str, signature: str) -> bool:
        """Whether a bare signature, in Base64, is this key's of the text."""
        try:
            self._key.verify(decoded(signature), text.encode())
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    def checkpoint(self, note: str) -> Checkpoint:
        """What a signed checkpoint says. Raises BadNote."""
        checkpoint = Checkpoint.parse(self.open(note))
        if checkpoint.origin != self.name:
            raise BadNote("The checkpoint is of another log.")
        return checkpoint


class Signer:
    """A private key with its name. Only the sealer has one."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.verifier = Verifier(name, key.public_key())

    @classmethod
    def load(cls, path: Path, name: str) -> Self:
        """From a PEM file. Raises SetupError when it cannot be read or others may read it."""
        try:
            if path.stat().st_mode & 0o077:
                raise SetupError("SEAL_KEY_FILE may be read by others: chmod 600.")
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SetupError("SEAL_KEY_FILE names no key that can be read: `followup audit new-key FILE`.") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SetupError("SEAL_KEY_FILE must hold an Ed25519 key: `followup audit new-key FILE`.")
        return cls(name, key)

    def signature(self, text: str) -> str:
        """The bare signature of a text, Base64."""
        return base64.b64encode(self._key.sign(text.encode())).decode()

    def sign(self, body: str) -> str:
        """The note with this text; it must end with a line feed."""
        signature = self._key.sign(body.encode())
        encoded = base64.b64encode(self.verifier.key_id + signature).decode()
        return f"{body}\n— {self.verifier.name} {encoded}\n"


def new_key(path: Path) -> None:
    """Make a signing key in a new file, 0600, whole or not at all. Raises SetupError when the file is there already."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)  # unlike a rename, this never replaces what is there
        finally:
            part.unlink()
    except FileExistsError as error:
        raise SetupError("There is a file of that name already; keys are never overwritten.") from error
    except OSError as error:
        raise SetupError("The key cannot be written there.") from error
