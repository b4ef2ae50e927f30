"""Settings: complete or no start, secrets never shown, every one documented."""

from pathlib import Path

import pytest

from errors import SetupError
from settings import SealerSettings, Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
COMPLETE = {
    "DATABASE_URL": "postgresql://u:SECRET-PASSWORD@h/d?sslmode=verify-full",
    "ENCRYPTION_KEY": "SECRET-KEY",
    "COGNITO_ISSUER": "https://idp.example/pool",
    "COGNITO_CLIENT_IDS": "app-1, app-2,",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(f"{name.upper()}_FILE", raising=False)


def fill(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> None:
    for name, value in {**COMPLETE, **changes}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


def test_a_complete_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    fill(monkeypatch, REDIS_PORT="6380")
    settings = load_settings()
    assert settings.cognito_client_ids == ("app-1", "app-2")
    assert settings.redis_port == 6380
    assert settings.followup_host == "127.0.0.1"
    assert settings.followup_mode == "production"


@pytest.mark.parametrize("name", COMPLETE)
def test_without_a_needed_setting_nothing_starts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fill(monkeypatch, **{name: None})
    with pytest.raises(SetupError, match=name):
        load_settings()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    fill(monkeypatch)
    assert "SECRET" not in repr(load_settings()) + str(load_settings())
    fill(monkeypatch, REDIS_PORT="SECRET-text")
    with pytest.raises(SetupError) as refused:
        load_settings()
    assert "SECRET" not in str(refused.value)
    assert "REDIS_PORT" in str(refused.value)


def test_a_file_may_hold_the_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from the file\n")
    fill(monkeypatch, ENCRYPTION_KEY=None, ENCRYPTION_KEY_FILE=str(secret))
    assert load_settings().encryption_key.get_secret_value() == "from the file"
    fill(monkeypatch, ENCRYPTION_KEY=None, ENCRYPTION_KEY_FILE=str(tmp_path / "none"))
    with pytest.raises(SetupError, match="ENCRYPTION_KEY_FILE"):
        load_settings()


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    for name, field in {**Settings.model_fields, **SealerSettings.model_fields}.items():
        assert field.description
        assert f"| `{name.upper()}` |" in text, name
        assert field.description in text, name


@pytest.mark.requirement("S8")
@pytest.mark.parametrize(
    "changed",
    [
        {"DATABASE_URL": "postgresql://u:SECRET@db.internal/d"},
        {"DATABASE_URL": "postgresql://u:SECRET@127.0.0.1/d"},
        {"DATABASE_URL": "postgresql://u:SECRET@db.internal/d?sslmode=prefer"},
        {"DATABASE_URL": "postgresql://u:SECRET@db.internal/d?sslmode=require&sslmode=disable"},
        {"DATABASE_URL": "postgresql://u:SECRET@/d?host=%2Frun%2Fpg,db.internal"},
        {"DATABASE_URL": "postgresql://u:SECRET@/d?host=db.internal"},
        {"REDIS_HOST": "cache.internal"},
    ],
    ids=lambda changed: next(iter(changed.values())),
)
def test_plain_text_to_postgresql_or_redis_is_refused_outside_a_demo(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]
) -> None:
    for name, value in (COMPLETE | changed).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match="plain text") as refused:
        load_settings()
    assert "SECRET" not in str(refused.value)
    monkeypatch.setenv("FOLLOWUP_MODE", "demo")
    load_settings()


@pytest.mark.requirement("S8")
@pytest.mark.parametrize(
    "changed",
    [
        {"DATABASE_URL": "postgresql://u:p@db.internal/d?sslmode=verify-full"},
        {"DATABASE_URL": "postgresql://u:p@/d?host=%2Frun%2Fpostgresql"},
        {"DATABASE_URL": "postgresql://u:p@/d"},
        {"REDIS_HOST": "cache.internal", "REDIS_TLS": "true"},
        {"REDIS_SOCKET": "/run/valkey.sock"},
    ],
    ids=lambda changed: next(iter(changed.values())),
)
def test_tls_and_local_sockets_are_taken(monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]) -> None:
    for name, value in (COMPLETE | changed).items():
        monkeypatch.setenv(name, value)
    load_settings()


@pytest.mark.parametrize("origin", ["*", "null", "http://app.example", "https://app.example/", "https://*.example"])
def test_an_origin_is_named_exactly_or_refused(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    assert load_settings().cors_origins == ()
    monkeypatch.setenv("CORS_ORIGINS", "https://app.example, https://app.example:8443,http://localhost:3000")
    assert len(load_settings().cors_origins) == 3
    monkeypatch.setenv("CORS_ORIGINS", f"https://app.example,{origin}")
    with pytest.raises(SetupError, match="CORS_ORIGINS"):
        load_settings()
