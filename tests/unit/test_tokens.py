"""Tokens: good ones pass, everything else is 401 with the same words."""

import base64
import hashlib
import hmac
import json
import time
import uuid
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from access.dev_issuer import CLIENT_ID, ISSUER, KEY_ID, DevIssuer
from access.jwks import FetchedKeys, PinnedKeys
from access.principal import Role
from access.tokens import TokenVerifier
from errors import SetupError, Unauthenticated


@pytest.fixture
def verifier(issuer: DevIssuer) -> TokenVerifier:
    return TokenVerifier(PinnedKeys(issuer.jwks_file), issuer=ISSUER, client_ids=[CLIENT_ID])


async def test_a_good_token_becomes_its_principal(verifier: TokenVerifier, issuer: DevIssuer) -> None:
    principal = await verifier.verify(issuer.token(["clinician", "unknown-group"], "sub-1"))
    assert principal.subject == "sub-1"
    assert principal.roles == {Role.CLINICIAN}
    assert principal.client_id == CLIENT_ID


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://cognito-idp.local/other"},
        {"iss": ISSUER + "/"},
        {"token_use": "id"},
        {"client_id": "somebody-else"},
        {"client_id": None},
        {"exp": int(time.time()) - 60},
        {"nbf": int(time.time()) + 10**6},
        {"iat": int(time.time()) + 10**6},
        {"exp": "soon"},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 200},
        {"sub": "a\x00b"},
        {"cognito:groups": "clinician"},
        {"cognito:groups": [{}]},
        {"cognito:groups": [["clinician"]]},
        {"client_id": [CLIENT_ID]},
        {"jti": None},
    ],
    ids="-".join,
)
async def test_a_token_with_a_wrong_claim_is_refused(
    verifier: TokenVerifier, issuer: DevIssuer, claims: dict[str, Any]
) -> None:
    with pytest.raises(Unauthenticated):
        await verifier.verify(issuer.token(["clinician"], "sub-1", **claims))


def _b64(data: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")


async def test_forged_signatures_and_algorithms_are_refused(verifier: TokenVerifier, issuer: DevIssuer) -> None:
    good = issuer.token(["clinician"], "sub-1")
    header, payload, signature = good.split(".")
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    claims = jwt.decode(good, options={"verify_signature": False})
    # The public key as an HMAC secret: what a verifier that trusts the header's algorithm would accept.
    hmac_header = _b64({"alg": "HS256", "kid": KEY_ID, "typ": "JWT"})
    secret = issuer.jwks_file.read_bytes()
    mac = hmac.digest(secret, f"{hmac_header}.{payload}".encode(), hashlib.sha256)
    hmac_signature = base64.urlsafe_b64encode(mac).decode().rstrip("=")
    forged = [
        f"{_b64({'alg': 'none', 'kid': KEY_ID})}.{payload}.",
        f"{_b64({'alg': 'none', 'kid': KEY_ID})}.{payload}.{signature}",
        f"{hmac_header}.{payload}.{signature}",
        f"{hmac_header}.{payload}.{hmac_signature}",
        jwt.encode(claims, stranger, algorithm="RS256", headers={"kid": KEY_ID}),
        jwt.encode(claims, stranger, algorithm="RS256", headers={"kid": "unknown"}),
        jwt.encode(claims, stranger, algorithm="RS256", headers={"kid": KEY_ID, "jku": "https://evil.invalid/jwks"}),
        jwt.encode(claims, stranger, algorithm="RS512", headers={"kid": KEY_ID}),
        f"{header}.{payload}.{signature[:-4]}AAAA",
        f"{header}.{_b64({**claims, 'cognito:groups': ['admin']})}.{signature}",
        f"{header}.{payload}",
        good[:-1],
        "",
        "....",
        "a.b.c",
        good + "=" * 9000,
        "\ud800.\ud800.\ud800",
        "é" * 50,
    ]
    for token in forged:
        with pytest.raises(Unauthenticated) as refused:
            await verifier.verify(token)
        assert refused.value.detail == "The token is not valid."


async def test_a_token_stops_being_good_when_it_expires(issuer: DevIssuer) -> None:
    now = [time.time()]
    verifier = TokenVerifier(PinnedKeys(issuer.jwks_file), issuer=ISSUER, client_ids=[CLIENT_ID], clock=lambda: now[0])
    ago = int(now[0]) - 100
    token = issuer.token(["clinician"], "sub-1", lifetime_s=-20, iat=ago)  # within the leeway of the first check
    await verifier.verify(token)
    now[0] += 60
    stale = issuer.token(["clinician"], "sub-1", lifetime_s=-40, iat=ago)
    with pytest.raises(Unauthenticated):
        await verifier.verify(stale)


@pytest.mark.requirement("S3")
async def test_a_token_that_lives_longer_than_15_minutes_is_refused(verifier: TokenVerifier, issuer: DevIssuer) -> None:
    now = int(time.time())
    assert await verifier.verify(issuer.token(["clinician"], "sub-1", iat=now - 400, exp=now + 500))
    assert await verifier.verify(issuer.token(["clinician"], "sub-1", iat=now, exp=now + 900))
    for lifetime_s in (901, 930, 3600, 86_400):
        with pytest.raises(Unauthenticated):
            await verifier.verify(issuer.token(["clinician"], "sub-1", iat=now, exp=now + lifetime_s))


@pytest.mark.parametrize(
    ("claims", "good"),
    [
        ({"iat": -929, "exp": -29}, True),
        ({"iat": -931, "exp": -31}, False),
        ({"iat": 29, "exp": 900}, True),
        ({"iat": 31, "exp": 900}, False),
        ({"nbf": 29}, True),
        ({"nbf": 31}, False),
        ({"auth_time": 1}, False),
        ({"auth_time": -86_400}, True),
    ],
    ids=str,
)
async def test_clocks_may_differ_by_half_a_minute_for_three_times_and_for_no_other(
    issuer: DevIssuer, claims: dict[str, int], good: bool
) -> None:
    now = int(time.time())
    verifier = TokenVerifier(PinnedKeys(issuer.jwks_file), issuer=ISSUER, client_ids=[CLIENT_ID], clock=lambda: now)
    times = {"iat": 0, "exp": 600, "auth_time": min(0, claims.get("iat", 0)), **claims}
    token = issuer.token(["clinician"], "sub-1", **{name: now + offset for name, offset in times.items()})
    if good:
        assert await verifier.verify(token)
    else:
        with pytest.raises(Unauthenticated):
            await verifier.verify(token)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iat": -700, "exp": -60}, "expired"),
        ({"exp": 3600}, "too-long-lived"),
        ({"nbf": 10**6}, "not-yet-valid"),
        ({"client_id": "somebody-else"}, "audience"),
        ({"iss": "https://cognito-idp.local/other"}, "issuer"),
        ({"token_use": "id"}, "id-token"),
        ({"token_use": "refresh"}, "token-use"),
        ({"sub": "a b"}, "claims"),
        ({"exp": "soon"}, "times"),
        ({"iat": 20, "exp": -10}, "ends-before-it-begins"),
        ({"nbf": 20, "iat": -(10**9), "exp": -10}, "ends-before-it-begins"),
    ],
    ids="-".join,
)
async def test_why_a_token_was_refused_is_for_the_log_and_not_for_who_sent_it(
    verifier: TokenVerifier, issuer: DevIssuer, claims: dict[str, Any], reason: str
) -> None:
    now = int(time.time())
    moments = {name: now + value for name, value in claims.items() if isinstance(value, int)}  # in seconds from now
    with pytest.raises(Unauthenticated) as refused:
        await verifier.verify(issuer.token(["clinician"], "sub-1", **{**claims, **moments}))
    assert (refused.value.reason, refused.value.detail) == (reason, "The token is not valid.")


async def test_a_forged_token_and_an_unknown_key_have_their_reasons(verifier: TokenVerifier, issuer: DevIssuer) -> None:
    good = issuer.token(["clinician"], "sub-1")
    claims = jwt.decode(good, options={"verify_signature": False})
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for token, reason in (
        (jwt.encode(claims, stranger, algorithm="RS256", headers={"kid": KEY_ID}), "signature"),
        (jwt.encode(claims, stranger, algorithm="RS256", headers={"kid": "unknown"}), "unknown-key"),
        (jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"kid": KEY_ID}), "algorithm"),
        ("no.token", "malformed"),
        ("x" * 9000, "too-long"),
    ):
        with pytest.raises(Unauthenticated) as refused:
            await verifier.verify(token)
        assert refused.value.reason == reason


async def test_a_subject_has_one_spelling(verifier: TokenVerifier, issuer: DevIssuer) -> None:
    subject = str(uuid.uuid4())
    spelled = [subject, subject.upper(), subject[:18].upper() + subject[18:]]
    found = [await verifier.verify(issuer.token(["clinician"], each, origin_jti=each, jti=each)) for each in spelled]
    assert {(one.subject, one.login, one.token_id) for one in found} == {(subject, subject, subject)}
    assert (await verifier.verify(issuer.token(["clinician"], "Somebody-1"))).subject == "Somebody-1"


@pytest.mark.parametrize("name", ["exp", "iat", "nbf", "auth_time"])
@pytest.mark.parametrize("kind", [str, bool, lambda _: None, lambda moment: [moment], lambda moment: {"x": moment}])
async def test_times_are_numbers(verifier: TokenVerifier, issuer: DevIssuer, name: str, kind: Any) -> None:
    now = int(time.time())
    moment = now + 600 if name == "exp" else now
    assert await verifier.verify(issuer.token(["clinician"], "sub-1", **{name: moment}))
    with pytest.raises(Unauthenticated):
        await verifier.verify(issuer.token(["clinician"], "sub-1", **{name: kind(moment)}))


def written(issuer: DevIssuer, **claims: str) -> str:
    """A signed token with these claims as they are written, which may be no JSON."""
    now = int(time.time())
    token = issuer.token(["clinician"], "sub-1", iat=now, exp=now + 600, auth_time=now - 5)
    payload = json.dumps(jwt.decode(token, options={"verify_signature": False}) | dict.fromkeys(claims, "@"))
    for name, value in claims.items():
        payload = payload.replace(f'"{name}": "@"', f'"{name}": {value}')
    return jwt.PyJWS().encode(payload.encode(), issuer._key, algorithm="RS256", headers={"kid": KEY_ID})


@pytest.mark.parametrize(
    ("claims", "good"),
    [
        ({"exp": "{now}.0"}, True),
        ({"exp": "{now}.25", "iat": "{now}.25", "nbf": "{now}.125"}, True),
        ({"iat": "{now}.5e0", "exp": "{later}.5"}, True),
        ({"iat": "{now}.5", "exp": "{later}.50000000000000000000000000000000000000000000000000001"}, False),
        ({"iat": "{now}", "exp": "{later}.0000000000001"}, False),
        ({"iat": "{now}.0000000000001", "exp": "{now}"}, False),
        ({"nbf": "{now}.0000000000001", "exp": "{now}"}, False),
        *(
            ({name: bad}, False)
            for name in ("exp", "iat", "nbf")
            for bad in ("NaN", "Infinity", "-Infinity", "1e400", "1e999999999999999999999", "1e-999999", "-1.5", "0.5")
        ),
        *(({"exp": bad}, False) for bad in ("9" * 4000, "9" * 5000, "1" * 4000 + ".5", '"1.5"', "true")),
        ({"auth_time": "{now}.0"}, False),
    ],
    ids=lambda value: f"{value!s:.60}",
)
async def test_a_time_may_have_a_fraction_and_is_reckoned_with_exactly(
    verifier: TokenVerifier, issuer: DevIssuer, claims: dict[str, str], good: bool
) -> None:
    now = int(time.time())
    token = written(issuer, **{name: value.format(now=now, later=now + 900) for name, value in claims.items()})
    if good:
        assert await verifier.verify(token)
    else:
        with pytest.raises(Unauthenticated):
            await verifier.verify(token)


async def test_a_login_is_named_by_whole_seconds(verifier: TokenVerifier, issuer: DevIssuer) -> None:
    now = int(time.time())
    payload = jwt.decode(issuer.token(["patient"], "sub-1", iat=now + 0.5), options={"verify_signature": False})
    del payload["origin_jti"], payload["auth_time"]
    token = jwt.encode(payload, issuer._key, algorithm="RS256", headers={"kid": KEY_ID})
    principal = await verifier.verify(token)
    assert (principal.login, principal.auth_time) == (f"sub-1@{now}", now)


async def test_a_remembered_token_ends_with_its_expiry(issuer: DevIssuer) -> None:
    now = [time.time()]
    verifier = TokenVerifier(PinnedKeys(issuer.jwks_file), issuer=ISSUER, client_ids=[CLIENT_ID], clock=lambda: now[0])
    token = issuer.token(["clinician"], "sub-1")
    first = await verifier.verify(token)
    assert await verifier.verify(token) is first
    now[0] += 900 + 29
    assert await verifier.verify(token) is first
    now[0] += 2
    with pytest.raises(Unauthenticated):
        await verifier.verify(token)


def client_credentials(issuer: DevIssuer, scope: str, **claims: Any) -> str:
    """What Cognito makes for a client of its own: about the client, without groups, name or login."""
    token = issuer.token([], CLIENT_ID, scope=scope)
    payload = jwt.decode(token, options={"verify_signature": False})
    for name in ("cognito:groups", "username", "origin_jti"):
        del payload[name]
    return jwt.encode({**payload, **claims}, issuer._key, algorithm="RS256", headers={"kid": KEY_ID})


async def test_a_client_with_the_scope_is_a_service(issuer: DevIssuer) -> None:
    verifier = TokenVerifier(
        PinnedKeys(issuer.jwks_file), issuer=ISSUER, client_ids=[CLIENT_ID], service_scope="followup-ml/predict"
    )
    service = await verifier.verify(client_credentials(issuer, "other/thing followup-ml/predict"))
    assert (service.subject, service.roles, service.login) == (CLIENT_ID, {Role.SERVICE}, None)
    for scope in ("", "followup-ml", "followup-ml/predict2", "xfollowup-ml/predict", "FOLLOWUP-ML/PREDICT"):
        assert (await verifier.verify(client_credentials(issuer, scope))).roles == set()


async def test_a_persons_token_with_that_scope_is_not_a_service(issuer: DevIssuer) -> None:
    verifier = TokenVerifier(
        PinnedKeys(issuer.jwks_file), issuer=ISSUER, client_ids=[CLIENT_ID], service_scope="followup-ml/predict"
    )
    scope = "openid followup-ml/predict"
    person = await verifier.verify(issuer.token(["patient"], "sub-1", scope=scope))
    assert person.roles == {Role.PATIENT}
    assert (await verifier.verify(client_credentials(issuer, scope, sub="sub-1"))).roles == set()
    assert (await verifier.verify(client_credentials(issuer, scope, username="somebody"))).roles == set()


async def test_a_group_called_service_makes_nobody_a_service(verifier: TokenVerifier, issuer: DevIssuer) -> None:
    for groups in (["service"], ["clinician", "service"]):
        person = await verifier.verify(issuer.token(["clinician"], "sub-1", **{"cognito:groups": groups}))
        assert Role.SERVICE not in person.roles
        assert person.login is not None


async def test_the_dev_issuers_service_is_what_cognito_makes_for_a_client(issuer: DevIssuer) -> None:
    payload = jwt.decode(issuer.token(["service"], "whoever"), options={"verify_signature": False})
    made = jwt.decode(client_credentials(issuer, "followup-ml/predict"), options={"verify_signature": False})
    assert payload.keys() == made.keys()
    assert (payload["sub"], payload["scope"]) == (made["sub"], made["scope"])


@pytest.mark.parametrize("subject", ["anonymous", "a b", "a\tb", "a\u00a0b", " a", "a\n"])
async def test_a_subject_that_the_trail_would_mix_up_with_others_is_refused(
    verifier: TokenVerifier, issuer: DevIssuer, subject: str
) -> None:
    with pytest.raises(Unauthenticated):
        await verifier.verify(issuer.token(["clinician"], subject))


async def test_a_login_has_a_name_also_without_origin_jti(verifier: TokenVerifier, issuer: DevIssuer) -> None:
    now = int(time.time())
    named = await verifier.verify(issuer.token(["patient"], "sub-1", origin_jti="login-1", auth_time=now - 5000))
    assert (named.login, named.auth_time) == ("login-1", now - 5000)
    payload = jwt.decode(issuer.token(["patient"], "sub-1", auth_time=now - 5000), options={"verify_signature": False})
    del payload["origin_jti"]
    nameless = jwt.encode(payload, issuer._key, algorithm="RS256", headers={"kid": KEY_ID})
    assert (await verifier.verify(nameless)).login == f"sub-1@{now - 5000}"


async def test_unknown_key_ids_do_not_make_us_fetch_at_the_callers_pace(issuer: DevIssuer) -> None:
    fetched: list[str] = []
    now = [0.0]

    def fetch(url: str) -> str:
        fetched.append(url)
        return issuer.jwks_file.read_text()

    keys = FetchedKeys("https://idp.invalid/jwks.json", fetch=fetch, clock=lambda: now[0])
    assert await keys.key(KEY_ID) is not None
    for number in range(1000):
        assert await keys.key(f"random-{number}") is None
    assert len(fetched) == 1
    now[0] = 31.0
    assert await keys.key("random") is None
    assert len(fetched) == 2
    assert await keys.key(KEY_ID) is not None


async def test_an_issuer_that_cannot_be_reached_leaves_the_known_keys_good(issuer: DevIssuer) -> None:
    answers: list[str | Exception] = [issuer.jwks_file.read_text(), OSError(), "{}", "not json"]
    now = [0.0]

    def fetch(_url: str) -> str:
        now[0] += 31
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    keys = FetchedKeys("https://idp.invalid/jwks.json", fetch=fetch, clock=lambda: now[0])
    for key_id in (KEY_ID, "a", "b", "c"):
        await keys.key(key_id)
        now[0] += 31
    assert not answers
    assert await keys.key(KEY_ID) is not None


def test_keys_are_never_fetched_in_plain_text_from_afar() -> None:
    for url in (
        "http://idp.example/jwks",
        "file:///etc/passwd",
        "ftp://x",
        "http://localhost.evil.example/",
        "http://127.0.0.1:80@evil.example/",
        "https://",
        "",
    ):
        with pytest.raises(SetupError):
            FetchedKeys(url)


def test_a_jwks_file_without_keys_stops_the_start(tmp_path: Path) -> None:
    for content in ("", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "AA", "kid": "x"}]}', "[1]"):
        (tmp_path / "jwks.json").write_text(content)
        with pytest.raises(SetupError):
            PinnedKeys(tmp_path / "jwks.json")
