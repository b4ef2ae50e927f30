"""A real server of its own for tests: `bentoml serve` in a process, on a free port of 127.0.0.1."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from sqlalchemy import Engine, insert

from access.dev_issuer import CLIENT_ID, ISSUER, DevIssuer
from audit.data_keys import DataKeys
from audit.key_encryption import KeyRing, LocalWrappingKey, new_root_key, root_key
from database.engine import open_async_engine, open_engine
from database.migrate import upgrade
from database.tables import CareTeamMember
from registry import catalog, signatures
from registry.signatures import Signer, SigningKey
from registry.store import StoredModel

ROOT = Path(__file__).resolve().parent.parent
BASE = "/api/v1/ml"
# Settings of a demo that may be up beside the test or the benchmark.
_NOT_OURS = ("REDIS_", "COGNITO_", "ENCRYPTION_", "DATABASE_", "OWNER_", "SEAL", "FOLLOWUP_MODE")


def signing_key(database_url: str, encryption_key: str) -> SigningKey:
    """The key that acts on models are signed with in a database."""

    async def seed() -> bytes:
        engine = open_async_engine(database_url, pool_size=1)
        keys = DataKeys(engine, KeyRing(LocalWrappingKey(root_key(encryption_key))))
        await keys.open()
        await keys.close()
        await engine.dispose()
        return keys.secret(signatures.PURPOSE)

    found = asyncio.run(seed())
    return SigningKey(lambda: found)


def answer_now(engine: Engine, stored: StoredModel, key: SigningKey) -> None:
    """Register as one person, approve and promote as another."""
    with engine.begin() as connection:
        catalog.register(connection, stored, Signer("author", key))
        catalog.approve(connection, stored, Signer("approver", key))
        name, version = stored.manifest.name, stored.manifest.version
        catalog.promote(connection, name, version, by=Signer("approver", key), override="a test")


@dataclass
class Server:
    """Started with `start`, stopped with `stop`; may be killed and started again in between."""

    database_url: str  # as the owner; the server itself logs in as followup_app
    app_database_url: str
    issuer: DevIssuer
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    encryption_key: str = field(default_factory=new_root_key)
    service: str = "service"  # the module to serve
    checkout: Path = ROOT  # of this project: another one, to compare with

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """What the server is told, for commands beside it."""
        return {
            "DATABASE_URL": self.app_database_url,
            "ENCRYPTION_KEY": self.encryption_key,
            "COGNITO_ISSUER": ISSUER,
            "COGNITO_CLIENT_IDS": CLIENT_ID,
            "COGNITO_JWKS_FILE": str(self.issuer.jwks_file),
            "QUOTA_PER_MINUTE": "10000000",
            "QUOTA_ANONYMOUS_PER_MINUTE": "10000000",
            **self.environment,
        }

    def followup(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the owner of the database; FOLLOWUP_TOKEN says who does."""
        command = [sys.executable, "-m", "cli", *map(str, arguments)]
        told = {**os.environ, **self.settings, "OWNER_DATABASE_URL": self.database_url, **environment}
        return subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, check=False)

    def register(self, models: Iterable[StoredModel]) -> None:
        engine = open_engine(self.database_url)
        upgrade(engine)
        key = signing_key(self.database_url, self.encryption_key)
        for stored in models:
            answer_now(engine, stored, key)
        engine.dispose()

    def relate(self, clinician: str, patient_id: str) -> None:
        """Put a clinician on a patient's care team."""
        engine = open_engine(self.database_url)
        with engine.begin() as connection:
            values = {"clinician": clinician, "patient_id": patient_id, "granted_by": "test"}
            connection.execute(insert(CareTeamMember).values(values))
        engine.dispose()

    def start(self, *, until: str = "/readyz") -> None:
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)},
            **self.settings,
        }
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.checkout,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            self.wait_until_ready(until)
        except BaseException:
            if self.process.poll() is None:
                self._kill_family()
            raise

    def command(self) -> list[str]:
        served = [sys.executable, "-m", "bentoml", "serve", f"{self.service}:FollowupML"]
        return [*served, "--host", "127.0.0.1", "--port", str(self.port)]

    @property
    def worker(self) -> psutil.Process:
        """The process that answers."""
        assert self.process is not None
        (found,) = (
            child
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if child.status() != psutil.STATUS_ZOMBIE
        )
        return found

    def wait_until_ready(self, probe: str = "/readyz", *, within_s: float = 60) -> None:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            assert self.process is not None and self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(f"{self.url}{probe}", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def kill(self) -> None:
        """kill -9 of everything it consists of."""
        assert self._kill_family() > 1

    def _kill_family(self) -> int:
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        family = [parent, *parent.children(recursive=True)]  # workers have sessions of their own
        for member in reversed(family):
            member.kill()
        self.process.wait()
        psutil.wait_procs(family, timeout=10)
        return len(family)

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
