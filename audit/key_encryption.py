"""Key-encryption keys: what wraps the data keys. One in a file or an environment variable, or one in AWS KMS.

The wrapped keys lie in the database, the wrapping key never does: a stolen database or backup opens nothing.
"""

import asyncio
import base64
import binascii
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from audit.envelope import KEY_BYTES, DoesNotOpen, Envelope, derive
from errors import InternalFault, SetupError

_KMS_TIMEOUT_S: Final = 5


def root_key(encoded: str) -> bytes:
    """The bytes of an ENCRYPTION_KEY. Raises SetupError when it isn't Base64 of 32 bytes."""
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SetupError("ENCRYPTION_KEY is not Base64.") from error
    if len(key) != KEY_BYTES:
        raise SetupError("ENCRYPTION_KEY must be Base64 of exactly 32 bytes.")
    return key


def new_root_key() -> str:
    """A fresh ENCRYPTION_KEY."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


class WrappingKey(Protocol):
    """Wraps and unwraps data keys; `context` is bound to the wrapped key and must be the same at both."""

    @property
    def id(self) -> str:
        """Which key it is, for the row; says nothing of its value."""
        ...

    async def wrap(self, key: bytes, context: str) -> bytes: ...

    async def unwrap(self, wrapped: bytes, context: str) -> bytes:
        """Raises DoesNotOpen, or InternalFault when the key service refuses or does not answer."""
        ...


class LocalWrappingKey:
    """A key derived from an ENCRYPTION_KEY."""

    def __init__(self, root: bytes) -> None:
        self._envelope = Envelope(derive(root, "key encryption"), "key encryption")
        self.root = root
        self.id = "local:" + hashlib.sha256(derive(root, "key encryption id")).hexdigest()[:16]

    async def wrap(self, key: bytes, context: str) -> bytes:
        return self._envelope.seal(key, context)

    async def unwrap(self, wrapped: bytes, context: str) -> bytes:
        return self._envelope.open(wrapped, context)


class KmsWrappingKey:
    """A symmetric key in AWS KMS, which it never leaves. `endpoint` is for a KMS elsewhere, such as a VPC endpoint."""

    def __init__(self, key_id: str, *, endpoint: str | None = None) -> None:
        try:
            import boto3  # noqa: PLC0415 - only where it is used, in the extra `aws`
            from botocore.config import Config  # noqa: PLC0415
        except ImportError as error:
            raise SetupError("KMS_KEY_ID needs the extra `aws`: pip install 'followup-ml[aws]'.") from error
        config = Config(connect_timeout=_KMS_TIMEOUT_S, read_timeout=_KMS_TIMEOUT_S, retries={"max_attempts": 2})
        self._client: Any = boto3.client("kms", endpoint_url=endpoint, config=config)
        self._key_id = key_id
        self.id = "kms:" + key_id

    async def wrap(self, key: bytes, context: str) -> bytes:
        answer = await self._ask("encrypt", Plaintext=key, EncryptionContext={"followup": context})
        return bytes(answer["CiphertextBlob"])

    async def unwrap(self, wrapped: bytes, context: str) -> bytes:
        answer = await self._ask("decrypt", CiphertextBlob=wrapped, EncryptionContext={"followup": context})
        return bytes(answer["Plaintext"])

    async def _ask(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        call = getattr(self._client, operation)
        try:
            answer: Mapping[str, Any] = await asyncio.to_thread(call, KeyId=self._key_id, **arguments)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in {"InvalidCiphertextException", "IncorrectKeyException"}:
                raise DoesNotOpen("A stored key does not open.") from error
            raise InternalFault("The key service refuses.") from error
        except BotoCoreError as error:
            raise InternalFault("The key service does not answer.") from error
        return answer


class KeyRing:
    """The wrapping key for new data keys, and older ones that still open what they wrapped."""

    def __init__(self, current: WrappingKey, older: Sequence[WrappingKey] = ()) -> None:
        self.current = current
        self._by_id = {key.id: key for key in (*older, current)}

    def get(self, wrapping_key_id: str) -> WrappingKey:
        """Raises DoesNotOpen when a data key was wrapped by a key that is not configured here."""
        key = self._by_id.get(wrapping_key_id)
        if key is None:
            raise DoesNotOpen("A data key was wrapped by a key that is not configured here.")
        return key

    @property
    def local_roots(self) -> Sequence[bytes]:
        """The values of ENCRYPTION_KEY and ENCRYPTION_KEYS_OLD."""
        return [key.root for key in self._by_id.values() if isinstance(key, LocalWrappingKey)]
