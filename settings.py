"""Every setting there is, read once at start-up into one frozen object.

Names are environment variables. A variable NAME_FILE, where set, names a file that holds the value (the way
orchestrators hand over secrets). docs/settings.md lists them all; a test fails when it does not.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from errors import SetupError

S = TypeVar("S", bound=BaseSettings)
Mode = Literal["demo", "production"]

_ORIGIN: Final = re.compile(r"https://[a-z0-9.\-]+(:[0-9]{1,5})?|http://(localhost|127\.0\.0\.1)(:[0-9]{1,5})?")


def setting(name: str) -> str:
    """One setting of the environment, or of the file that NAME_FILE names; empty where neither is set.

    For commands, which need less than a server does. Raises SetupError when the file cannot be read.
    """
    if path := os.environ.get(f"{name}_FILE"):
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SetupError(f"{name}_FILE names a file that cannot be read.") from error
    return os.environ.get(name, "")


def owner_database_url() -> str:
    """The database as the owner of its tables, for commands and migrations."""
    return setting("OWNER_DATABASE_URL") or setting("DATABASE_URL")


def is_private(database_url: str) -> bool:
    """Whether a connection is by local socket or cannot be made without TLS."""
    parts = urlsplit(database_url)
    query = parse_qs(parts.query)
    named = [*query.get("host", []), *query.get("hostaddr", []), parts.hostname or ""]
    local = all(unquote(host).startswith("/") for names in named for host in names.split(",") if host)
    return local or query.get("sslmode", [""])[-1] in {"require", "verify-ca", "verify-full"}


class FileSource(PydanticBaseSettingsSource):
    """Reads NAME_FILE for a setting NAME."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        from_file = f"{field_name.upper()}_FILE" in os.environ
        return setting(field_name.upper()) if from_file else None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


class Settings(BaseSettings):
    """The settings of one process."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    followup_mode: Mode = Field("production", description="`demo` allows the local token issuer and demo data.")
    followup_home: Path = Field(
        Path(".followup"), description="Folder of the embedded servers, the demo's keys and model store."
    )
    followup_host: str = Field("127.0.0.1", description="Address to listen on.")
    followup_port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Of our own messages; libraries log from WARNING, below that some log what they are given."
    )
    tenant: str = Field("default", min_length=1, max_length=64, description="Part of every cache key.")

    trusted_proxies: str = Field("", description="Addresses whose X-Forwarded-For is believed, separated by commas.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the API from a browser, separated by commas; empty: none."
    )
    connections_in_all: int = Field(
        0, ge=0, le=1_000_000, description="Most connections at once; 0: as many as the limit on open files allows."
    )
    connections_by_address: int = Field(
        512, ge=1, le=1_000_000, description="Most connections from one address; trusted proxies are not limited."
    )

    database_url: SecretStr = Field(
        SecretStr(""), description="PostgreSQL, postgresql://followup_app:password@host/db, as the role of the server."
    )
    owner_database_url: SecretStr = Field(
        SecretStr(""), description="The same database as the owner of its tables: for commands, never for the server."
    )
    database_pool_size: int = Field(4, ge=1, le=64, description="Connections for reads.")

    redis_host: str = Field("", description="Redis or Valkey; empty: no cache.")
    redis_port: int = Field(6379, ge=1, le=65535, description="Its port.")
    redis_password: SecretStr = Field(SecretStr(""), description="Its password.")
    redis_tls: bool = Field(False, description="Speak TLS to it.")
    redis_ca_file: str = Field("", description="Certificates to check it with; default: those of the system.")
    redis_socket: str = Field("", description="Unix socket of a local server; goes before host and port.")
    cache_ttl_s: int = Field(3600, ge=1, le=86_400, description="How long a cached result lives, seconds.")
    cache_timeout_ms: int = Field(100, ge=5, le=1000, description="Longest wait for the cache, milliseconds.")

    cognito_issuer: str = Field("", description="https://cognito-idp.REGION.amazonaws.com/POOL, compared exactly.")
    cognito_jwks_url: str = Field(
        "", description="Where the pool's public keys are; default: issuer + /.well-known/jwks.json."
    )
    cognito_jwks_file: str = Field("", description="A pinned JWKS file; goes before the URL.")
    cognito_client_ids: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Accepted app client ids, separated by commas."
    )

    cognito_service_scope: str = Field(
        "followup-ml/predict", description="The scope that makes a client-credentials token a service."
    )

    quota_per_minute: int = Field(
        60_000, ge=0, description="Requests of one person or service in a minute; 0: no limit."
    )
    quota_anonymous_per_minute: int = Field(
        6000, ge=0, description="Requests without a valid token from one address in a minute; 0: no limit."
    )

    break_glass_most_open: int = Field(
        3,
        ge=1,
        description="Uses of break-glass by one clinician, open and not reviewed, that are not above the ceiling.",
    )
    break_glass_most_a_day: int = Field(
        10, ge=1, description="Uses of break-glass by one clinician in a day that are not above the ceiling."
    )
    break_glass_hard_stop: bool = Field(
        False, description="Refuse break-glass above the ceiling, instead of 10 minutes with a second confirmation."
    )

    encryption_key: SecretStr = Field(
        SecretStr(""), description="Base64 of 32 random bytes. Wraps the keys of each patient; needed unless KMS does."
    )
    encryption_keys_old: SecretStr = Field(
        SecretStr(""), description="Former values of ENCRYPTION_KEY, separated by spaces, while keys are rotated."
    )
    kms_key_id: str = Field("", description="Key of AWS KMS that wraps the keys of each patient.")
    kms_endpoint: str = Field("", description="Address of KMS where it is not AWS's own, such as a VPC endpoint.")
    audit_timeout_ms: int = Field(
        2000, ge=50, le=30_000, description="Longest wait for a durable record, milliseconds."
    )

    external_models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="External models that are enabled, separated by commas; each needs a signed agreement."
    )

    inference_threads: int = Field(4, ge=1, le=64, description="Threads of the pool in which models run.")
    onnx_intra_op_threads: int = Field(1, ge=1, le=64, description="Threads inside one ONNX call.")
    batch_max_items: int = Field(64, ge=1, le=1024, description="Most items in one batch.")
    batch_max_tokens: int = Field(4096, ge=64, le=65_536, description="Most tokens in one batch, padding included.")
    queue_max_items: int = Field(
        512, ge=1, le=100_000, description="Items that may wait for a model before callers get 503."
    )
    queue_max_tokens: int = Field(
        131_072, ge=512, description="Tokens that may wait for a model before callers get 503."
    )
    model_refresh_s: float = Field(
        5.0, gt=0, le=3600, description="How often a newly promoted version is looked for, seconds."
    )

    @field_validator("cognito_client_ids", "external_models", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_ORIGIN.fullmatch(origin) for origin in origins):
            raise ValueError("each must be https://host or https://host:port, or http://localhost:port; no *")
        return origins

    @model_validator(mode="after")
    def _complete(self) -> "Settings":
        missing = [
            name
            for name, value in (
                ("DATABASE_URL", self.database_url.get_secret_value()),
                ("ENCRYPTION_KEY", self.encryption_key.get_secret_value() or self.kms_key_id),
                ("COGNITO_ISSUER", self.cognito_issuer),
                ("COGNITO_CLIENT_IDS", self.cognito_client_ids),
            )
            if not value
        ]
        if missing:
            raise SetupError(f"Not set: {', '.join(missing)}. docs/settings.md says what each is.")
        return self

    @model_validator(mode="after")
    def _encrypted_on_the_wire(self) -> "Settings":
        if self.followup_mode == "demo":
            return self
        if not is_private(self.database_url.get_secret_value()):
            raise SetupError("DATABASE_URL would travel in plain text: add sslmode=verify-full, or use a local socket.")
        if self.redis_host and not self.redis_socket and not self.redis_tls:
            raise SetupError("Redis would be spoken to in plain text: set REDIS_TLS=true, or use REDIS_SOCKET.")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, FileSource(settings_cls), env_settings)


class SealerSettings(BaseSettings):
    """The settings of the sealer's process, which has a key that the server never has and none of the server's."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    sealer_database_url: SecretStr = Field(
        SecretStr(""), description="The database as the sealer's role; default: DATABASE_URL."
    )
    database_url: SecretStr = Field(
        SecretStr(""), description="PostgreSQL, postgresql://followup_app:password@host/db, as the role of the server."
    )
    seal_key_file: str = Field(
        "", description="PEM file of the key that signs checkpoints and reports; `followup audit new-key` makes one."
    )
    seal_state_file: str = Field(
        "",
        description="File in which the sealer keeps what it signed last; default: SEAL_KEY_FILE with .state behind it.",
    )
    audit_origin: str = Field(
        "followup-ml", min_length=1, max_length=128, description="Name of this audit log and of its signing key."
    )
    audit_seal_every_ms: int = Field(500, ge=10, le=1000, description="How often new records are sealed, milliseconds.")
    audit_anchor: str = Field(
        "", description="Where checkpoints are anchored: dir:/path or s3://bucket/prefix; empty: nowhere."
    )
    audit_anchor_every_s: float = Field(60.0, gt=0, le=86_400, description="How often they are, seconds.")
    audit_anchor_s3_endpoint: str = Field("", description="Address of an S3 that is not AWS.")

    @property
    def url(self) -> str:
        """Raises SetupError when there is none."""
        url = self.sealer_database_url.get_secret_value() or self.database_url.get_secret_value()
        if not url:
            raise SetupError("Not set: SEALER_DATABASE_URL. docs/settings.md says what it is.")
        return url

    @property
    def key_file(self) -> Path:
        """Raises SetupError when there is none."""
        if not self.seal_key_file:
            raise SetupError("Not set: SEAL_KEY_FILE. `followup audit new-key FILE` makes a key.")
        return Path(self.seal_key_file)

    @property
    def state_file(self) -> Path:
        """Raises SetupError when neither it nor the key is named."""
        return Path(self.seal_state_file or f"{self.key_file}.state")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, FileSource(settings_cls), env_settings)


def load_settings(**overrides: Any) -> Settings:
    """The settings of the environment. Raises SetupError that names what is missing or wrong, never a value."""
    return _loaded(Settings, overrides)


def load_sealer_settings(**overrides: Any) -> SealerSettings:
    """As `load_settings`, for the sealer's process."""
    return _loaded(SealerSettings, overrides)


def _loaded(kind: type[S], overrides: dict[str, Any]) -> S:
    try:
        return kind(**overrides)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False)
        )
        raise SetupError(f"A setting is wrong. {faults}") from error
