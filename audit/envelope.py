"""Encryption of what the database and the cache hold about people, and keyed digests of it.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce. The associated data names table, column, row and key version,
so that a cipher text moved to another place does not open. Keys for different purposes are derived from one root
(HKDF, RFC 5869).
"""

import base64
import binascii
import hashlib
import hmac
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from errors import InternalFault, SetupError

_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32


def root_key(encoded: str) -> bytes:
    """The root key of ENCRYPTION_KEY. Raises SetupError when it isn't Base64 of 32 bytes."""
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SetupError("ENCRYPTION_KEY is not Base64.") from error
    if len(key) != _KEY_BYTES:
        raise SetupError("ENCRYPTION_KEY must be Base64 of exactly 32 bytes.")
    return key


def new_root_key() -> str:
    """A fresh ENCRYPTION_KEY."""
    return base64.b64encode(os.urandom(_KEY_BYTES)).decode()


def derive(root: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose; knowing one purpose's key says nothing of another's."""
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=f"followup-ml/{purpose}".encode()).derive(root)


class Envelope:
    """Seals and opens byte strings with one key."""

    def __init__(self, key: bytes, *, version: int = 1) -> None:
        self._cipher = AESGCM(key)
        self.version = version

    def seal(self, plain: bytes, bound_to: str) -> bytes:
        """nonce ‖ cipher text ‖ tag, which opens only with the same `bound_to`."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, self._associated(bound_to))

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        """The plain bytes. Raises InternalFault when anything about it was changed."""
        try:
            nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            return self._cipher.decrypt(nonce, body, self._associated(bound_to))
        except (InvalidTag, ValueError) as error:
            raise InternalFault("A stored value does not open with its key.") from error

    def _associated(self, bound_to: str) -> bytes:
        return f"{bound_to}|{self.version}".encode()


class KeyedDigest:
    """HMAC-SHA256: a digest that cannot be guessed from a dictionary of likely inputs."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, hashlib.sha256)
