"""What this server's processes listen on beside the service itself: anything is a way in that no token guards.

Looks at the kernel's tables, not at what any library says that it opened. The worker asks at its start, so that a
process manager that takes commands from other accounts of the machine is found however it came to be there.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from errors import SetupError

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"  # TCP_LISTEN
_ACCEPTS: Final = 0x10000  # __SO_ACCEPTCON
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_PASS: Final = stat.S_IXGRP | stat.S_IXOTH


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket. `where` is for people: a port or a path."""

    inode: str
    where: str


def refuse_other_listeners(arguments: Sequence[str]) -> None:
    """Raise SetupError when a process of this server listens where others can reach it, but for the service's socket.

    `arguments` are those of a worker, with the descriptor of the service's socket behind --fd; a process that has
    none serves nothing, and is not looked at.
    """
    if "--fd" not in arguments[:-1] or not (_PROC / "self/fd").is_dir():
        return
    descriptor = int(arguments[arguments.index("--fd") + 1])
    own = str(os.fstat(descriptor).st_ino)
    held = {inode for process_id in _family() for inode in _sockets(process_id)} - {own}
    open_to_others = sorted(each.where for each in (*_tcp(), *_unix()) if each.inode in held)
    if open_to_others:
        raise SetupError(
            f"A process of this server also listens on {', '.join(open_to_others)}, where anybody on this machine "
            "can give it commands. It is not started. Start it by `followup serve`, `followup up` or `bentoml serve "
            "service:FollowupML`."
        )


def _family() -> Iterator[int]:
    """This process, the one that started it, and all that they started."""
    waiting = [os.getppid()]
    seen = {os.getpid(), *waiting}
    while waiting:
        process_id = waiting.pop()
        yield process_id
        for each in _children(process_id):
            if each not in seen:
                seen.add(each)
                waiting.append(each)
    yield os.getpid()


def _children(process_id: int) -> list[int]:
    found: list[int] = []
    for task in (_PROC / str(process_id) / "task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:  # it ended meanwhile
            continue
    return found


def _sockets(process_id: int) -> Iterator[str]:
    """Inodes of the sockets that a process holds. Raises SetupError for one that does not let itself be looked at."""
    try:
        descriptors = list((_PROC / str(process_id) / "fd").iterdir())
    except PermissionError as error:
        raise SetupError(
            f"Process {process_id}, which belongs to this server, is somebody else's: what it listens on is not known."
        ) from error
    except OSError:
        return
    for descriptor in descriptors:
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target.removeprefix("socket:[").removesuffix("]")


def _tcp() -> Iterator[Listener]:
    for table in ("tcp", "tcp6"):
        for line in _lines(f"net/{table}"):
            fields = line.split()
            if fields[3] == _LISTENING:
                yield Listener(fields[9], f"TCP port {int(fields[1].rpartition(':')[2], 16)}")


def _unix() -> Iterator[Listener]:
    """Unix sockets that accept connections from other accounts; one without a name accepts none."""
    for line in _lines("net/unix"):
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & _ACCEPTS and _reachable(fields[7]):
            yield Listener(fields[6], fields[7])


def _reachable(path: str) -> bool:
    """Whether other accounts may connect. An abstract name, which begins with @, has no permissions at all."""
    if not path.startswith("/"):
        return True
    try:
        writable = Path(path).stat().st_mode & _OTHERS_WRITE
        return bool(writable) and all(folder.stat().st_mode & _OTHERS_PASS for folder in Path(path).parents)
    except OSError:
        return False  # the path is gone, and with it the way in


def _lines(table: str) -> list[str]:
    try:
        return (_PROC / table).read_text().splitlines()[1:]
    except OSError:  # no IPv6 here
        return []
