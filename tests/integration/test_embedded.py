"""The embedded servers: private, shared by processes, back after a kill -9."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import redis

from embedded.postgres import EmbeddedPostgres
from embedded.valkey import EmbeddedValkey

ROOT = Path(__file__).resolve().parents[2]
JOIN = """
import sys
from pathlib import Path
from embedded.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.readline()
server.stop()
"""


def alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def joined(home: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", JOIN, str(home)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("postgresql://")
    return process


def leave(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=30)


def test_nobody_else_on_the_machine_can_reach_it(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    url = server.start()
    try:
        for folder in (tmp_path / "postgres", tmp_path / "run", tmp_path / "postgres" / "data"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "postgres/passwords").iterdir())
        with psycopg.connect(url) as connection:
            shown = {
                name: connection.execute(f"SHOW {name}").fetchone()  # type: ignore[arg-type]
                for name in ("listen_addresses", "password_encryption", "data_checksums", "synchronous_commit", "fsync")
            }
        assert shown == {
            "listen_addresses": ("",),
            "password_encryption": ("scram-sha-256",),
            "data_checksums": ("on",),
            "synchronous_commit": ("on",),
            "fsync": ("on",),
        }
        wrong = url.replace(url.split(":")[2].split("@")[0], "wrong-password")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(wrong)
    finally:
        server.stop()


def test_it_stops_with_its_last_user_not_before_and_keeps_the_data(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    url = server.start()
    process_id = server.process_id()
    assert process_id is not None
    other = joined(tmp_path)
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (x int)")
    server.stop()
    assert alive(process_id)
    leave(other)
    assert not alive(process_id)
    again = EmbeddedPostgres(tmp_path)
    with psycopg.connect(again.start()) as connection:
        connection.execute("SELECT x FROM kept")
    again.stop()


def test_a_user_that_is_killed_does_not_keep_it_alive(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    server.start()
    process_id = server.process_id()
    assert process_id is not None
    other = joined(tmp_path)
    other.kill()
    other.communicate()
    server.stop()
    assert not alive(process_id)


def test_it_starts_again_after_a_kill_minus_nine(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    with psycopg.connect(server.start(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (x int)")
        process_id = server.process_id()
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while alive(process_id) and time.monotonic() < deadline:
        time.sleep(0.05)
    again = EmbeddedPostgres(tmp_path)
    with psycopg.connect(again.start()) as connection:
        connection.execute("SELECT x FROM kept")
    server.stop()
    again.stop()


def test_four_processes_that_start_at_once_share_one_server(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    urls = {process.stdout.readline() for process in processes if process.stdout is not None}
    assert len(urls) == 1
    process_id = EmbeddedPostgres(tmp_path).process_id()
    assert process_id is not None
    for process in processes:
        leave(process)
    assert not alive(process_id)


def test_a_deep_folder_is_no_trouble_for_the_socket(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 5)
    server = EmbeddedPostgres(deep)
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    server.stop()


def test_valkey_is_private_and_writes_nothing_to_disk(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    socket = server.start()
    process_id = server.process_id()
    assert process_id is not None
    client = redis.Redis(unix_socket_path=socket)
    client.set("canary", "x")
    assert client.config_get("port")["port"] == "0"
    assert stat.S_IMODE(Path(socket).stat().st_mode) == 0o700
    client.close()
    server.stop()
    assert not alive(process_id)
    assert not [path for path in (tmp_path / "valkey").rglob("*") if b"canary" in path.read_bytes()]
