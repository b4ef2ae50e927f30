"""PostgreSQL over TCP: with TLS and a certificate that is checked, or not at all."""

import datetime
import ipaddress
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from database.engine import open_async_engine
from embedded.postgres import EmbeddedPostgres
from settings import is_private


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key and its self-signed certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    key_file, certificate_file = folder / "server.key", folder / "server.crt"
    key_file.touch(mode=0o600)
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificate_file.write_bytes(signed.public_bytes(Encoding.PEM))
    return key_file, certificate_file


@pytest.fixture
def over_tcp(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A PostgreSQL that also listens on loopback, with TLS: (URL without parameters, its certificate)."""
    owner = EmbeddedPostgres(tmp_path)
    socket_url = owner.start()
    owner.stop()
    key, signed = certificate(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [f"port={port}", "listen_addresses=127.0.0.1", "ssl=on", f"ssl_key_file={key}", f"ssl_cert_file={signed}"]
    command = [*owner.command(), *(part for option in options for part in ("-c", option))]
    with (tmp_path / "tls.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
    password = psycopg.conninfo.conninfo_to_dict(socket_url)["password"]
    url = f"postgresql://followup:{password}@127.0.0.1:{port}/followup"
    deadline = time.monotonic() + 20
    while True:
        if server.poll() is not None and b"SSL is not supported" in (tmp_path / "tls.log").read_bytes():
            pytest.skip("this PostgreSQL was built without TLS")
        try:
            psycopg.connect(f"{url}?sslmode=require").close()
            break
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, (tmp_path / "tls.log").read_text()
            time.sleep(0.2)
    yield url, signed
    server.terminate()
    server.wait(30)


@pytest.mark.requirement("S8")
async def test_a_connection_over_tcp_is_encrypted_and_its_certificate_is_checked(over_tcp: tuple[str, Path]) -> None:
    url, signed = over_tcp
    trusted = f"{url}?sslmode=verify-full&sslrootcert={signed}"
    assert is_private(trusted)
    engine = open_async_engine(trusted, pool_size=1)
    async with engine.connect() as connection:
        encrypted = await connection.execute(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
        assert encrypted.scalar_one() is True
    await engine.dispose()
    other_folder = signed.parent / "other"
    other_folder.mkdir()
    another = certificate(other_folder)[1]
    engine = open_async_engine(f"{url}?sslmode=verify-full&sslrootcert={another}", pool_size=1)
    with pytest.raises(OperationalError, match="certificate"):
        async with engine.connect():
            pass
    await engine.dispose()
