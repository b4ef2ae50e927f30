"""A worker finds what its server listens on beside the service, in itself, in its parent and in what that started."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import ROOT

PARENT = """
import os, socket, subprocess, sys
service = socket.create_server(("127.0.0.1", 0))
service.set_inheritable(True)
{opened}
worker = [sys.executable, "-c", {worker!r}, "--fd", str(service.fileno())]
done = subprocess.run(worker, pass_fds=[service.fileno()], capture_output=True, text=True)
print(done.stdout + done.stderr)
"""
WORKER = """
import socket, sys
from errors import SetupError
from serving.exposure import refuse_other_listeners
{opened}
try:
    refuse_other_listeners(sys.argv)
    print("started")
except SetupError as error:
    print("refused", error)
"""
SIBLING = """
import subprocess, time
other = subprocess.Popen([sys.executable, "-c", "import socket, time; s = socket.create_server(('127.0.0.1', 0));"
    "print(1, flush=True); time.sleep(20)"], stdout=subprocess.PIPE)
other.stdout.readline()
import atexit; atexit.register(other.kill)
"""
UNIX = """
import pathlib
folder = pathlib.Path({folder!r}); folder.chmod({folder_mode:#o})
other = socket.socket(socket.AF_UNIX); other.bind({folder!r} + "/s"); other.listen()
pathlib.Path({folder!r}, "s").chmod({mode:#o})
"""


def outcome(*, parent: str = "", worker: str = "") -> str:
    script = PARENT.format(opened=parent, worker=WORKER.format(opened=worker))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_services_own_socket_is_no_fault() -> None:
    assert outcome().strip() == "started"


@pytest.mark.parametrize(
    "opened",
    [
        "other = socket.create_server(('127.0.0.1', 0))",
        "other = socket.create_server(('0.0.0.0', 0))",
        "other = socket.create_server(('::1', 0), family=socket.AF_INET6)",
        "other = socket.socket(socket.AF_UNIX); other.bind('\\0' + str(id(socket))); other.listen()",
    ],
)
def test_another_listener_is_found_in_the_worker_and_in_its_parent(opened: str) -> None:
    assert outcome(worker=opened).startswith("refused")
    assert outcome(parent=opened).startswith("refused")


def test_it_is_found_in_a_process_beside_the_worker() -> None:
    assert outcome(parent=SIBLING).startswith("refused")


@pytest.mark.parametrize(
    ("folder_mode", "mode", "expected"),
    [(0o755, 0o777, "refused"), (0o755, 0o600, "started"), (0o700, 0o777, "started")],
)
def test_a_unix_socket_counts_where_others_may_write_to_it(
    tmp_path: Path, folder_mode: int, mode: int, expected: str
) -> None:
    folder = Path("/tmp") / f"exposure-{tmp_path.name}-{mode:o}-{folder_mode:o}"
    folder.mkdir()
    try:
        opened = UNIX.format(folder=str(folder), folder_mode=folder_mode, mode=mode)
        assert outcome(parent=opened).startswith(expected)
    finally:
        (folder / "s").unlink()
        folder.rmdir()


def test_what_serves_nothing_is_not_looked_at() -> None:
    script = PARENT.replace('"--fd", str', "str").format(
        opened="other = socket.create_server(('127.0.0.1', 0))", worker=WORKER.format(opened="")
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "started"
