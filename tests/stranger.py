"""What another account of the machine can do to a server: `python -m tests.stranger JSON`, as root, which it gives up.

Told which TCP ports and Unix sockets a server's processes listen on, it speaks to each of them as somebody who has no
rights: as the client of a process manager that wants to start a program, and as a browser. It prints what came back.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from circus.client import CircusClient
from circus.exc import CallError

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534
_ZMTP_GREETING = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL".ljust(64, b"\x00")


def listening(family: list[psutil.Process]) -> tuple[list[int], list[str]]:
    """TCP ports and paths of Unix sockets on which processes listen; an abstract path begins with @."""
    inodes = set()
    for process in family:
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    paths = set()
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if int(fields[3], 16) & 0x10000 and fields[6] in inodes:
            paths.add(fields[7] if len(fields) > 7 else "")
    return sorted(ports), sorted(paths)


def family_of(process_id: int) -> list[psutil.Process]:
    parent = psutil.Process(process_id)
    return [parent, *parent.children(recursive=True)]


def assert_one_way_in(process_id: int, port: int, mark: Path) -> None:
    """The family of a process listens on one TCP port; as nobody, that speaks HTTP and nothing else answers at all."""
    ports, paths = listening(family_of(process_id))
    assert ports == [port]
    if os.geteuid() != 0:
        return
    mark.parent.chmod(0o777)
    given = json.dumps({"ports": ports, "paths": paths, "mark": str(mark)})
    command = [sys.executable, "-m", "tests.stranger", given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["uid"] == NOBODY
    (answers,) = found["ports"].values()
    assert answers["http"].startswith("HTTP/1.1 200")
    assert answers["zmtp"].startswith("HTTP/1.1 4")
    assert answers["command"] is None
    assert not mark.exists()
    assert set(found["paths"].values()) <= {"refused"}


def command_a_process_manager(address: str, mark: str) -> Any:
    """Ask a circus arbiter for a program of ours, with the server's environment."""
    client = CircusClient(endpoint=address, timeout=2.0)
    options = {"copy_env": True, "singleton": True, "respawn": False}
    command = f"sh -c 'env > {mark}; id -u >> {mark}; exec sleep 1'"
    try:
        return client.send_message("add", name="stranger", cmd=command, start=True, options=options)
    except CallError:
        return None
    finally:
        client.stop()


def answer_to(address: Any, said: bytes) -> str:
    with socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX) as line:
        line.settimeout(2)
        try:
            line.connect(address)
            line.sendall(said)
            return line.recv(64).decode("latin-1")
        except PermissionError:
            return "refused"
        except OSError as error:
            return type(error).__name__


def main() -> None:
    given = json.loads(sys.argv[1])
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    found: dict[str, Any] = {"uid": os.getuid(), "ports": {}, "paths": {}}
    for port in given["ports"]:
        address = ("127.0.0.1", port)
        found["ports"][port] = {
            "zmtp": answer_to(address, _ZMTP_GREETING),
            "http": answer_to(address, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"),
            "command": command_a_process_manager(f"tcp://127.0.0.1:{port}", given["mark"]),
        }
    for path in given["paths"]:
        found["paths"][path] = answer_to("\0" + path[1:] if path.startswith("@") else path, _ZMTP_GREETING)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
