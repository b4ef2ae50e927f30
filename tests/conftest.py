"""Real servers for the tests: a private PostgreSQL and Valkey, a database of its own for each test, trained models."""

import asyncio
import hashlib
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

os.environ["BENTOML_DO_NOT_TRACK"] = "True"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
ROOT = Path(__file__).resolve().parent.parent
# Trained once and kept: the same code and corpus give the same models, so a second run need not train again.
TRAINED = ROOT / ".followup" / "tests"
os.environ["BENTOML_HOME"] = str(TRAINED / "bentoml")
(TRAINED / "bentoml").mkdir(parents=True, exist_ok=True)
WORDING = ROOT / "clinical" / "wellness.py"  # what is said beside a score; of training it only has the bands' names

from access.dev_issuer import DevIssuer, demo_subject  # noqa: E402 - BentoML reads its home at import
from audit.data_keys import DataKey, DataKeys  # noqa: E402
from audit.envelope import Envelope  # noqa: E402
from audit.key_encryption import KeyRing, LocalWrappingKey  # noqa: E402
from database.engine import open_async_engine, open_engine  # noqa: E402
from database.migrate import upgrade  # noqa: E402
from embedded.postgres import EmbeddedPostgres  # noqa: E402
from embedded.valkey import EmbeddedValkey  # noqa: E402
from registry import store  # noqa: E402
from registry.store import StoredModel  # noqa: E402
from tests.server import BASE, Server  # noqa: E402


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def postgres(home: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(home)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def valkey_socket(home: Path) -> Iterator[str]:
    server = EmbeddedValkey(home)
    yield server.start()
    server.stop()


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> str:
    return postgres.create_database(f"t_{uuid.uuid4().hex}")


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    engine = open_engine(empty_database_url)
    upgrade(engine)
    engine.dispose()
    return empty_database_url


@pytest.fixture
def app_url(postgres: EmbeddedPostgres, database_url: str) -> str:
    """The test's database as the server's own role."""
    return postgres.url_as("followup_app", database_url)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
async def async_engine(app_url: str) -> AsyncIterator[AsyncEngine]:
    """As the server sees it: row-level security holds."""
    engine = open_async_engine(app_url, pool_size=4)
    yield engine
    await engine.dispose()


def data_key(key: bytes = bytes(32)) -> DataKey:
    """A data key that is in no database."""
    return DataKey(uuid.UUID(int=1), "patient:p", key, Envelope(key, "test"))


@pytest.fixture
async def keys(async_engine: AsyncEngine) -> AsyncIterator[DataKeys]:
    keys = DataKeys(async_engine, KeyRing(LocalWrappingKey(bytes(32))))
    await keys.open()
    yield keys
    await keys.close()


@pytest.fixture(scope="session")
def issuer(home: Path) -> DevIssuer:
    return DevIssuer(home / "issuer")


@pytest.fixture
def clinician(issuer: DevIssuer) -> dict[str, str]:
    return bearer(issuer, "clinician")


def bearer(issuer: DevIssuer, *roles: str, subject: str | None = None) -> dict[str, str]:
    token = issuer.token(roles, subject or demo_subject(roles[0]))
    return {"Authorization": f"Bearer {token}"}


def _training_code() -> str:
    """What the models depend on: the same digest means that training again would give the same models."""
    digest = hashlib.sha256()
    parts = [*(ROOT / "training").rglob("*"), *(ROOT / "clinical").rglob("*"), ROOT / "registry" / "store.py"]
    for path in sorted(parts):
        if path.suffix in {".py", ".txt"} and path != WORDING:
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _trained(name: str, *commands: list[str], environment: dict[str, str] | None = None) -> StoredModel:
    mark = TRAINED / f"{name}-{_training_code()}"
    if not mark.exists():
        known = {stored.manifest.version for stored in store.versions(name)}
        for command in commands:
            variables = {**os.environ, **(environment or {})}
            subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=variables, check=True)
        (made,) = (stored for stored in store.versions(name) if stored.manifest.version not in known)
        mark.write_text(made.manifest.version)
    return store.get(name, mark.read_text())


@pytest.fixture(scope="session")
def ner_model() -> StoredModel:
    """The real NER model, trained on the whole corpus."""
    return _trained("clinical_ner", ["training.train_ner_model"])


@pytest.fixture(scope="session")
def deterioration_model(postgres: EmbeddedPostgres) -> StoredModel:
    """The real deterioration model, trained on a full set of demo data."""
    url = postgres.create_database(f"training_{uuid.uuid4().hex}")
    engine = open_engine(url)
    upgrade(engine)
    engine.dispose()
    steps = ["cli", "demo-data"], ["training.train_deterioration_model"]
    return _trained("deterioration_lstm", *steps, environment={"DATABASE_URL": url})


async def eventually(condition: object, *, within_s: float = 10.0) -> None:
    """Wait until `condition()` (or what it returns, awaited) is true."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        outcome = condition()  # type: ignore[operator]
        if asyncio.iscoroutine(outcome):
            outcome = await outcome
        if outcome:
            return
        assert asyncio.get_running_loop().time() < deadline, "it did not come about in time"
        await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def server(
    home: Path,
    postgres: EmbeddedPostgres,
    valkey_socket: str,
    issuer: DevIssuer,
    ner_model: StoredModel,
    deterioration_model: StoredModel,
) -> Iterator[Server]:
    """One real server for all tests that only talk to it."""
    database_url = postgres.create_database(f"server_{uuid.uuid4().hex}")
    server = Server(
        database_url=database_url,
        app_database_url=postgres.url_as("followup_app", database_url),
        issuer=issuer,
        log=home / "server.log",
        environment={"REDIS_SOCKET": valkey_socket, "CORS_ORIGINS": "https://app.example"},
    )
    server.register([ner_model, deterioration_model])
    server.start()
    yield server
    server.stop()


@pytest.fixture
def api(server: Server, clinician: dict[str, str]) -> Iterator[httpx.Client]:
    """A demo clinician's client of the shared server."""
    with httpx.Client(base_url=server.url + BASE, headers=clinician, timeout=30) as client:
        yield client
