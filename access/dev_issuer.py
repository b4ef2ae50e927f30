"""A local stand-in for a Cognito user pool: for laptops and tests, never beside patients' data.

Its tokens have exactly the claims of Cognito's access tokens, so that nothing else needs to know the difference.
"""

import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import RSAAlgorithm

ISSUER: Final = "https://cognito-idp.local/followup-demo"
CLIENT_ID: Final = "followup-demo"
KEY_ID: Final = "followup-demo-1"
SERVICE_SCOPE: Final = "followup-ml/predict"  # the default of COGNITO_SERVICE_SCOPE
LIFETIME_S: Final = 900  # as long as an access token may live here


class DevIssuer:
    """An RSA key in `folder` and the tokens it signs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._key_file = folder / "signing-key.pem"
        self.jwks_file = folder / "jwks.json"
        self._key = self._load() if self._key_file.exists() else self._make()

    def _load(self) -> rsa.RSAPrivateKey:
        key = load_pem_private_key(self._key_file.read_bytes(), password=None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return key

    def _make(self) -> rsa.RSAPrivateKey:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._key_file.touch(mode=0o600)
        self._key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        entry = {**public, "kid": KEY_ID, "use": "sig", "alg": "RS256"}
        self.jwks_file.write_text(json.dumps({"keys": [entry]}), encoding="utf-8")
        return key

    def token(self, roles: Sequence[str], subject: str, *, lifetime_s: int = LIFETIME_S, **claims: Any) -> str:
        """An access token; `claims` replace or add single claims, which is how tests make bad ones.

        A service's is that of a client-credentials grant: about the client, whatever `subject` says.
        """
        now = int(time.time())
        service = list(roles) == ["service"]
        payload = {
            "sub": subject,
            "iss": ISSUER,
            "client_id": CLIENT_ID,
            "token_use": "access",
            "scope": "openid",
            "cognito:groups": list(roles),
            "auth_time": now,
            "iat": now,
            "exp": now + lifetime_s,
            "jti": str(uuid.uuid4()),
            "origin_jti": str(uuid.uuid4()),
            "username": subject,
        }
        if service:
            payload |= {"sub": CLIENT_ID, "scope": SERVICE_SCOPE}
            for name in ("cognito:groups", "origin_jti", "username"):
                del payload[name]
        payload |= claims
        return jwt.encode(payload, self._key, algorithm="RS256", headers={"kid": KEY_ID})


def demo_subject(role: str) -> str:
    """The same made-up Cognito sub for a role at every call, so that a demo's history stays one person's."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://followup.invalid/demo/{role}"))
