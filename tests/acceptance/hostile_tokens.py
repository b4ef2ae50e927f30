"""Makes tokens that must never be let in: what attackers send, and what an issuer never would.

Each maker gets a seeded source of randomness and what an attacker may know: the public key, a genuine token, the
issuer's name. Makers named `signed_…` use the genuine private key, to reach the checks behind the signature.
"""

import base64
import hashlib
import hmac
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from jwt.algorithms import RSAAlgorithm

from access.dev_issuer import CLIENT_ID, ISSUER, KEY_ID, DevIssuer


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def segment(document: Any) -> str:
    return b64(document if isinstance(document, bytes) else json.dumps(document).encode())


@dataclass
class Attacker:
    """What is known, and two keys of one's own."""

    issuer: DevIssuer
    folder: Path
    rng: random.Random
    stranger: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    curve: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        key = load_pem_private_key((self.folder / "signing-key.pem").read_bytes(), password=None)
        assert isinstance(key, rsa.RSAPrivateKey)
        self.genuine = key
        self.public = key.public_key()

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        return {
            "sub": str(uuid.UUID(int=self.rng.getrandbits(128), version=4)),
            "iss": ISSUER,
            "client_id": CLIENT_ID,
            "token_use": "access",
            "scope": "openid",
            "cognito:groups": ["admin", "auditor", "clinician"],
            "auth_time": now,
            "iat": now,
            "exp": now + 900,
            "jti": str(uuid.UUID(int=self.rng.getrandbits(128), version=4)),
            "origin_jti": str(uuid.UUID(int=self.rng.getrandbits(128), version=4)),
            "username": "somebody",
            **changes,
        }

    def good(self) -> str:
        return self.sign(self.claims())

    def sign(self, claims: Any, header: Any = None, key: rsa.RSAPrivateKey | None = None) -> str:
        """RS256 over any two documents, given as objects or as bytes."""
        head = {"alg": "RS256", "kid": KEY_ID} if header is None else header
        text = f"{segment(head)}.{segment(claims)}"
        signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(text.encode(), key or self.genuine)
        return f"{text}.{b64(signature)}"


def none_algorithm(by: Attacker) -> str:
    spelling = "".join(by.rng.choice((c.upper(), c)) for c in "none")
    name = by.rng.choice((spelling, f" {spelling}", f"{spelling}\0", "", None, "ｎｏｎｅ", ["none"], "RS256,none"))
    header = {"alg": name, "kid": KEY_ID}
    signature = by.rng.choice(("", b64(by.rng.randbytes(256)), by.good().rpartition(".")[2], "AA"))
    return f"{segment(header)}.{segment(by.claims())}.{signature}"


def no_algorithm(by: Attacker) -> str:
    return f"{segment({'kid': KEY_ID})}.{segment(by.claims())}.{by.good().rpartition('.')[2]}"


def public_key_as_hmac_secret(by: Attacker) -> str:
    numbers = by.public.public_numbers()
    modulus = numbers.n.to_bytes(256, "big")
    secret = by.rng.choice(
        (
            by.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            by.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip(),
            by.public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
            by.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            by.public.public_bytes(Encoding.DER, PublicFormat.PKCS1),
            modulus,
            b64(modulus).encode(),
            by.issuer.jwks_file.read_bytes(),
            b"",
            b"secret",
        )
    )
    bits = by.rng.choice((256, 384, 512))
    header = {"alg": by.rng.choice((f"HS{bits}", "RS256", f"hs{bits}")), "typ": "JWT", "kid": KEY_ID}
    text = f"{segment(header)}.{segment(by.claims())}"
    return f"{text}.{b64(hmac.digest(secret, text.encode(), getattr(hashlib, f'sha{bits}')))}"


def another_algorithm(by: Attacker) -> str:
    algorithm = by.rng.choice(("RS384", "RS512", "PS256", "PS384", "PS512"))
    key = by.rng.choice((by.genuine, by.stranger))  # even the right key under another algorithm
    return jwt.encode(by.claims(), key, algorithm=algorithm, headers={"kid": KEY_ID})


def another_algorithm_in_disguise(by: Attacker) -> str:
    """PS256 or RS384 signatures under a header that says RS256."""
    text = f"{segment({'alg': 'RS256', 'kid': KEY_ID})}.{segment(by.claims())}"
    algorithm = jwt.get_algorithm_by_name(by.rng.choice(("RS384", "PS256")))
    return f"{text}.{b64(algorithm.sign(text.encode(), by.genuine))}"


def elliptic_curve(by: Attacker) -> str:
    return jwt.encode(by.claims(), by.curve, algorithm="ES256", headers={"kid": KEY_ID})


def strangers_key(by: Attacker) -> str:
    return by.sign(by.claims(), key=by.stranger)


def key_of_ones_own_in_the_header(by: Attacker) -> str:
    public = RSAAlgorithm.to_jwk(by.stranger.public_key(), as_dict=True)
    extra = by.rng.choice(
        (
            {"jku": "https://attacker.invalid/jwks.json"},
            {"jku": f"{ISSUER}@attacker.invalid/.well-known/jwks.json"},
            {"jwk": {**public, "kid": KEY_ID}},
            {"x5u": "https://attacker.invalid/cert.pem"},
            {"x5c": [base64.b64encode(by.rng.randbytes(300)).decode()]},
            {"x5t": b64(by.rng.randbytes(20))},
        )
    )
    key_id = by.rng.choice((KEY_ID, "attacker", "https://attacker.invalid/key"))
    return by.sign(by.claims(), {"alg": "RS256", "kid": key_id, **extra}, by.stranger)


def signed_critical_header(by: Attacker) -> str:
    extra: dict[str, Any] = by.rng.choice(
        (
            {"crit": ["exp"], "exp": 1},
            {"crit": []},
            {"crit": ["b64"], "b64": False},
            {"crit": ["b64"], "b64": True},
            {"b64": True},
            {"crit": "b64"},
            {"zip": "DEF"},
            {"cty": "JWT"},
            {"enc": "A256GCM"},
        )
    )
    return by.sign(by.claims(), {"alg": "RS256", "kid": KEY_ID, **extra})


def signed_wrong_key_id(by: Attacker) -> str:
    tricks: tuple[Any, ...] = (
        KEY_ID.upper(),
        f"{KEY_ID} ",
        f"{KEY_ID}\0",
        f"../{KEY_ID}",
        "' OR 1=1 --",
        "/dev/null",
        "",
        None,
        7,
        [KEY_ID],
        {"kid": KEY_ID},
        True,
        KEY_ID.replace("1", "１"),
        "k" * 300,
        by.rng.randbytes(8).hex(),
    )
    return by.sign(by.claims(), {"alg": "RS256", "kid": by.rng.choice(tricks)})


def signed_wrong_issuer_client_or_use(by: Attacker) -> str:
    changes: tuple[dict[str, Any], ...] = (
        {"iss": ISSUER + "/"},
        {"iss": ISSUER.upper()},
        {"iss": ISSUER.replace("https", "http")},
        {"iss": ISSUER + ".attacker.invalid"},
        {"iss": f"https://attacker.invalid/{ISSUER}"},
        {"iss": [ISSUER]},
        {"iss": ISSUER.replace("o", "о")},  # a Cyrillic one
        {"client_id": "somebody-else"},
        {"client_id": CLIENT_ID + " "},
        {"client_id": CLIENT_ID.upper()},
        {"client_id": [CLIENT_ID]},
        {"client_id": None, "aud": CLIENT_ID},
        {"token_use": "id", "aud": CLIENT_ID},
        {"token_use": "Access"},
        {"token_use": ["access"]},
        {"token_use": None},
    )
    return by.sign(by.claims(**by.rng.choice(changes)))


def signed_id_token(by: Attacker) -> str:
    claims = by.claims(token_use="id", aud=CLIENT_ID, email="a@example.invalid", email_verified=True)
    if by.rng.random() < 0.5:
        del claims["client_id"]
    return by.sign(claims)


def signed_wrong_times(by: Attacker) -> str:
    now = int(time.time())
    far = by.rng.randint(120, 10**9)
    changes: tuple[dict[str, Any], ...] = (
        {"exp": now - far, "iat": now - far - 900},
        {"exp": now - 31},
        {"exp": 0},
        {"exp": -1},
        {"exp": now + 900 + far},
        {"exp": now + 900, "iat": now - far},
        {"exp": 2**63},
        {"exp": 10**300},
        {"iat": now + far, "exp": now + far + 900},
        {"iat": now + far},
        {"iat": 0},
        {"iat": -far},
        {"nbf": now + far},
        {"auth_time": now + far},
        {"exp": now + 900.5},
        {"iat": now - 0.5},
        {"iat": now + 20, "exp": now - 10},
        {"nbf": now + 20, "iat": now - 100, "exp": now - 10},
        {"exp": str(now + 900)},
        {"exp": True},
        {"exp": None},
        {"iat": [now]},
        {"nbf": "now"},
        {"auth_time": "today"},
    )
    return by.sign(by.claims(**by.rng.choice(changes)))


def signed_infinite_times(by: Attacker) -> str:
    text = json.dumps(by.claims(exp="@"))
    number = by.rng.choice(("Infinity", "NaN", "-Infinity", "1e400", "9" * 5000, "0x7fffffff", "1e10"))
    return by.sign(text.replace('"@"', number).encode())


def signed_wrong_types(by: Attacker) -> str:
    values: tuple[Any, ...] = (7, 1.5, True, None, [], {}, ["x"], {"x": "y"}, [["x"]])
    name = by.rng.choice(("sub", "iss", "client_id", "token_use", "jti", "origin_jti", "username", "scope"))
    return by.sign(by.claims(**{name: by.rng.choice(values)}))


def signed_wrong_groups(by: Attacker) -> str:
    values: tuple[Any, ...] = (
        "admin",
        None,
        {"admin": True},
        [None],
        [1],
        [["admin"]],
        [{}],
        7,
        True,
        ["clinician"] * 101,
    )
    return by.sign(by.claims(**{"cognito:groups": by.rng.choice(values)}))


def signed_missing_claim(by: Attacker) -> str:
    claims = by.claims()
    del claims[by.rng.choice(("sub", "iss", "client_id", "token_use", "jti", "iat", "exp"))]
    return by.sign(claims)


def signed_odd_subject(by: Attacker) -> str:
    subject = str(uuid.UUID(int=by.rng.getrandbits(128), version=4))
    tricks = (
        "",
        " ",
        subject + " ",
        subject + "\n",
        subject + "\0",
        "\u202e" + subject,
        subject + "\u200b",
        subject.replace("-", "‐"),
        "ａｄｍｉｎ",
        "e\u0301" + subject,
        "x" * 129,
        "' OR 1=1 --",
        "<script>",
        "../../etc/passwd",
        "a,b",
        "%00",
    )
    name = by.rng.choice(("sub", "jti", "origin_jti"))
    return by.sign(by.claims(**{name: by.rng.choice(tricks)}))


def signed_name_twice(by: Attacker) -> str:
    claims = json.dumps(by.claims())
    name, value = by.rng.choice(
        (("sub", '"admin"'), ("exp", "9999999999"), ("cognito:groups", '["admin"]'), ("iss", f'"{ISSUER}"'))
    )
    twice = f'{{"{name}": {value}, {claims[1:]}' if by.rng.random() < 0.5 else f'{claims[:-1]}, "{name}": {value}}}'
    if by.rng.random() < 0.3:
        return by.sign(by.claims(), f'{{"alg": "none", "alg": "RS256", "kid": "{KEY_ID}"}}'.encode())
    return by.sign(twice.encode())


def signed_not_an_object(by: Attacker) -> str:
    return by.sign(
        by.rng.choice((b"[]", b'"text"', b"7", b"null", b"", b"{", b"\xff\xfe{}", b"{}x", b"[" * 3000, b"{'a':1}"))
    )


def signed_nested(by: Attacker) -> str:
    inner = by.good()
    return by.sign(inner.encode(), {"alg": "RS256", "kid": KEY_ID, "cty": "JWT"})


def signed_with_odd_encoding(by: Attacker) -> str:
    """UTF-16 or a byte-order mark, which some JSON parsers detect."""
    text = json.dumps(by.claims())
    return by.sign(by.rng.choice((text.encode("utf-16"), text.encode("utf-32"), b"\xef\xbb\xbf" + text.encode())))


def signed_with_a_service_scope(by: Attacker) -> str:
    """A person's client with the scope of services in a wrong form."""
    claims = by.claims(scope=by.rng.choice((["followup-ml/predict"], {"followup-ml/predict": 1}, 7, None)))
    return by.sign(claims)


def truncated(by: Attacker) -> str:
    token = by.good()
    return token[: by.rng.randrange(len(token))] if by.rng.random() < 0.5 else token[by.rng.randrange(1, len(token)) :]


def bit_flipped(by: Attacker) -> str:
    token = bytearray(by.good().encode())
    place = by.rng.randrange(len(token))
    token[place] ^= 1 << by.rng.randrange(7)
    return token.decode("latin-1")


def character_changed(by: Attacker) -> str:
    token = by.good()
    place = by.rng.randrange(len(token))
    other = by.rng.choice([c for c in "abcXYZ019-_" if c != token[place]])
    return token[:place] + other + token[place + 1 :]


def payload_swapped(by: Attacker) -> str:
    header, _, signature = by.good().split(".")
    return f"{header}.{segment(by.claims())}.{signature}"


def padding_tricks(by: Attacker) -> str:
    """The same bytes written in another way: a second spelling of a token is a second token to a denylist."""
    header, payload, signature = by.good().split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    spare = last[last.index(signature[-1]) ^ by.rng.randint(1, 15)]  # 256 bytes leave four bits unused
    return by.rng.choice(
        (
            f"{header}.{payload}.{signature}=",
            f"{header}.{payload}.{signature}==",
            f"{header}.{payload}.{signature}===",
            f"{header}=.{payload}.{signature}",
            f"{header}.{payload}=.{signature}",
            f"{header}.{payload}.{signature[:-1]}{spare}",
            f"{header}.{payload}.{signature[:-1]}",
            f"{header}.{payload}.{signature}A",
            f"{header}.{payload}.{signature}\n",
            f" {header}.{payload}.{signature}",
            f"{header}.{payload}.{signature[:10]}\n{signature[10:]}",
            f"{header}.{payload}.{signature[:10]} {signature[10:]}",
            f"{header}.{payload}.{signature.replace('-', '+').replace('_', '/')}+/",
            f"{header}..{payload}.{signature}",
            f"{header}.{payload}.{signature}.",
            f".{header}.{payload}.{signature}",
            f"{header}.{payload}.{signature}.{signature}",
            f"{header}\u2024{payload}\u2024{signature}",
            f"Bearer {header}.{payload}.{signature}",
        )
    )


def huge(by: Attacker) -> str:
    size = by.rng.choice((9_000, 50_000, 1_000_000))
    return by.rng.choice(("A" * size, by.good() + "A" * size, "." * size, by.sign(by.claims(filler="x" * size))))


def zero_signature(by: Attacker) -> str:
    text, _, _ = by.good().rpartition(".")
    signature = by.rng.choice((bytes(256), b"\x01" + bytes(255), b"\xff" * 256, b"\0", by.rng.randbytes(256)))
    return f"{text}.{b64(signature)}"


def noise(by: Attacker) -> str:
    alphabet = by.rng.choice(("abc.-_", "\x00\x01.", "é.ü", "\U0001f600.", "\ud800.", "{}\"':,."))
    return "".join(by.rng.choice(alphabet) for _ in range(by.rng.randrange(200)))


def encrypted_form(by: Attacker) -> str:
    header = {"alg": by.rng.choice(("dir", "RSA-OAEP", "RSA1_5")), "enc": "A256GCM", "kid": KEY_ID}
    return ".".join([segment(header), *(b64(by.rng.randbytes(n)) for n in (256, 12, 200, 16))])


def json_form(by: Attacker) -> str:
    header, payload, signature = by.good().split(".")
    return json.dumps({"protected": header, "payload": payload, "signature": signature})


MAKERS: tuple[Callable[[Attacker], str], ...] = (
    none_algorithm,
    no_algorithm,
    public_key_as_hmac_secret,
    another_algorithm,
    another_algorithm_in_disguise,
    elliptic_curve,
    strangers_key,
    key_of_ones_own_in_the_header,
    signed_critical_header,
    signed_wrong_key_id,
    signed_wrong_issuer_client_or_use,
    signed_id_token,
    signed_wrong_times,
    signed_infinite_times,
    signed_wrong_types,
    signed_wrong_groups,
    signed_missing_claim,
    signed_odd_subject,
    signed_name_twice,
    signed_not_an_object,
    signed_nested,
    signed_with_odd_encoding,
    signed_with_a_service_scope,
    truncated,
    bit_flipped,
    character_changed,
    payload_swapped,
    padding_tricks,
    huge,
    zero_signature,
    noise,
    encrypted_form,
    json_form,
)


def corpus(by: Attacker, size: int) -> Iterator[tuple[str, str]]:
    """(maker's name, token), all makers in turn."""
    for number in range(size):
        make = MAKERS[number % len(MAKERS)]
        yield make.__name__, make(by)
