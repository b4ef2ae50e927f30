"""The demo: everything a laptop needs, embedded and made on the spot. Not for patients' data."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sqlalchemy.dialects.postgresql import insert

from access.dev_issuer import CLIENT_ID, ISSUER, DevIssuer, demo_subject
from audit.checkpoint import new_key
from audit.key_encryption import new_root_key
from database.engine import open_engine
from database.migrate import upgrade
from database.tables import CareTeamMember
from embedded.postgres import EmbeddedPostgres
from embedded.shared_server import private_folder, write_once
from embedded.valkey import EmbeddedValkey
from errors import SetupError
from settings import owner_database_url

HOME: Final = Path(".followup")


class Demo:
    """Servers, keys and issuer under one folder. What the environment sets already is taken from there instead."""

    def __init__(self, home: Path = HOME) -> None:
        self.home = private_folder(home.resolve())
        self.issuer = DevIssuer(self.home / "issuer")
        self._postgres = None if "DATABASE_URL" in os.environ else EmbeddedPostgres(self.home)
        self._valkey = None if {"REDIS_HOST", "REDIS_SOCKET"} & os.environ.keys() else EmbeddedValkey(self.home)

    def start(self) -> Mapping[str, str]:
        """Start or join the servers and bring the schema up to date. Returns the environment of the server.

        Raises SetupError where the environment names a database that nobody called a demo's.
        """
        if self._postgres is None and os.environ.get("FOLLOWUP_MODE") != "demo":
            raise SetupError(
                "DATABASE_URL is set, and a demo would put made-up people into that database: unset it, or set"
                " FOLLOWUP_MODE=demo if it is meant."
            )
        environment = {
            "FOLLOWUP_MODE": "demo",
            "FOLLOWUP_HOME": str(self.home),
            "BENTOML_HOME": os.environ.get("BENTOML_HOME", str(self.home / "bentoml")),
            "BENTOML_DO_NOT_TRACK": "True",
            "ENCRYPTION_KEY_FILE": str(self._encryption_key()),
            "SEAL_KEY_FILE": str(self._seal_key()),
            "AUDIT_ANCHOR": f"dir:{private_folder(self.home / 'anchors')}",
            "COGNITO_ISSUER": ISSUER,
            "COGNITO_CLIENT_IDS": CLIENT_ID,
            "COGNITO_JWKS_FILE": str(self.issuer.jwks_file),
        }
        Path(environment["BENTOML_HOME"]).mkdir(parents=True, exist_ok=True)
        if self._postgres is not None:
            environment["OWNER_DATABASE_URL"] = owner = self._postgres.start()
            environment["DATABASE_URL"] = self._postgres.url_as("followup_app", owner)
            environment["SEALER_DATABASE_URL"] = self._postgres.url_as("followup_sealer", owner)
        if self._valkey is not None:
            environment["REDIS_SOCKET"] = self._valkey.start()
        engine = open_engine(environment.get("OWNER_DATABASE_URL") or owner_database_url())
        upgrade(engine)
        with engine.begin() as connection:
            clinician, patient = demo_subject("clinician"), demo_subject("patient")
            members = {"clinician": clinician, "patient_id": patient, "granted_by": "demo"}
            connection.execute(insert(CareTeamMember).values(members).on_conflict_do_nothing())
        engine.dispose()
        return environment

    def stop(self) -> None:
        """Leave the servers; the last one out stops them. Data stays."""
        if self._valkey is not None:
            self._valkey.stop()
        if self._postgres is not None:
            self._postgres.stop()

    def _seal_key(self) -> Path:
        path = self.home / "seal-key.pem"
        if not path.exists():
            new_key(path)
        return path

    def _encryption_key(self) -> Path:
        return write_once(self.home / "encryption.key", new_root_key)
