"""Encryption of what the database and the cache hold about people, and keyed digests of it.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce. The associated data names table, column, row and key, so that
a cipher text moved to another place does not open.
"""

import hashlib
import hmac
import os
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from errors import InternalFault

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


def derive(root: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose (HKDF, RFC 5869); knowing one purpose's key says nothing of another's."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=f"followup-ml/{purpose}".encode()).derive(root)


class DoesNotOpen(InternalFault):
    """Something stored is not what its key sealed: it was changed, or sealed by nobody who has the key."""


class Envelope:
    """Seals and opens byte strings with one key; `key_name` is part of what a cipher text is bound to."""

    def __init__(self, key: bytes, key_name: str) -> None:
        self._cipher = AESGCM(key)
        self._key_name = key_name

    def seal(self, plain: bytes, bound_to: str) -> bytes:
        """nonce ‖ cipher text ‖ tag, which opens only with the same `bound_to`."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, self._associated(bound_to))

    def open(self, sealed: bytes, bound_to: str) -> bytes:
        """The plain bytes. Raises DoesNotOpen when anything about it was changed."""
        try:
            nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            return self._cipher.decrypt(nonce, body, self._associated(bound_to))
        except (InvalidTag, ValueError) as error:
            raise DoesNotOpen("A stored value does not open with its key.") from error

    def _associated(self, bound_to: str) -> bytes:
        return f"{bound_to}|{self._key_name}".encode()


class KeyedDigest:
    """HMAC-SHA256: a digest that cannot be guessed from a dictionary of likely inputs.

    The key is asked for at each use: the one it is derived from is read from the database after start-up.
    """

    def __init__(self, key: Callable[[], bytes]) -> None:
        self._key = key

    def of(self, data: bytes) -> bytes:
        return hmac.digest(self._key(), data, hashlib.sha256)
