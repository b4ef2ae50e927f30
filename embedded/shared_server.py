"""A server process that several of our processes share: the first starts it, the last one out stops it.

Who uses it is told by shared file locks, which the kernel drops when a process dies, however it dies. So a `kill -9` of
one user neither stops the server for the others nor leaves a count that is never right again.
"""

import fcntl
import hashlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Protocol

from errors import SetupError

_LONGEST_SOCKET_FOLDER: Final = 80  # a Unix socket's path may have 107 bytes


class ServerProgram(Protocol):
    """What a particular server adds: how it is made, started, asked and stopped."""

    folder: Path

    def prepare(self) -> None:
        """Make data folder and configuration, once."""
        ...

    def command(self) -> Sequence[str]: ...

    def answers(self) -> bool:
        """Whether it takes requests now. Must not raise."""
        ...

    def process_id(self) -> int | None:
        """The running server's process id, as the server itself has written it."""
        ...

    stop_signal: signal.Signals


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class SharedServer:
    """One use of a shared server; call `acquire` once and `release` once."""

    def __init__(self, program: ServerProgram, *, start_timeout_s: float = 60.0) -> None:
        self._program = program
        self._start_timeout_s = start_timeout_s
        self._use: IO[str] | None = None

    def acquire(self) -> None:
        """Join the running server or start it. Raises SetupError when it does not come up."""
        private_folder(self._program.folder)
        with _locked(self._program.folder / "start.lock"):
            self._use = (self._program.folder / "users.lock").open("a")
            fcntl.flock(self._use, fcntl.LOCK_SH)
            if self._program.answers():
                return
            self._program.prepare()
            self._start()

    def release(self) -> None:
        """Leave; the last user stops the server and waits until it is gone."""
        if self._use is None:
            return
        with _locked(self._program.folder / "start.lock"):
            fcntl.flock(self._use, fcntl.LOCK_UN)
            try:
                fcntl.flock(self._use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # somebody else still uses it
            else:
                self._stop()
        self._use.close()
        self._use = None

    def _start(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        log = self._program.folder / "server.log"
        while time.monotonic() < deadline:
            if self._answers_while_alive(_spawn(self._program.command(), log), deadline):
                return
            # After a kill -9 the old server's children may hold the lock file for some seconds: try again.
            time.sleep(0.5)
        raise SetupError(f"The embedded server in {self._program.folder} does not start; see {log}.")

    def _answers_while_alive(self, process_id: int, deadline: float) -> bool:
        _wait(lambda: self._program.answers() or not _alive(process_id), deadline)
        return _alive(process_id)

    def _stop(self) -> None:
        process_id = self._program.process_id()
        if process_id is None:
            return
        with suppress(ProcessLookupError):  # killed before, its pid file left behind
            os.kill(process_id, self._program.stop_signal)
        _wait(lambda: not _alive(process_id), time.monotonic() + 30)


def _spawn(command: Sequence[str], log: Path) -> int:
    """Start a server that may outlive us, in a session of its own: Ctrl-C in the terminal must reach us, not it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    process_id = os.posix_spawnp(command[0], list(command), dict(os.environ), file_actions=actions, setsid=True)
    # Reaped the moment it ends: PostgreSQL takes the zombie of a killed one for a server that still runs.
    threading.Thread(target=_reap, args=(process_id,), daemon=True).start()
    return process_id


def _reap(process_id: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(process_id, 0)


def _wait(condition: Callable[[], bool], deadline: float) -> bool:
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def _alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def private_folder(path: Path) -> Path:
    """Make `path` with mode 0700. Raises SetupError when it belongs to another user."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.stat().st_uid != os.geteuid():
        raise SetupError(f"{path} belongs to another user.")
    path.chmod(0o700)
    return path


def socket_folder(home: Path) -> Path:
    """A 0700 folder for sockets, inside `home` where its path is short enough for a Unix socket."""
    inside = home.resolve() / "run"
    if len(str(inside)) <= _LONGEST_SOCKET_FOLDER:
        return private_folder(inside)
    short = hashlib.sha256(str(inside).encode()).hexdigest()[:12]
    return private_folder(Path(tempfile.gettempdir()) / f"followup-{os.geteuid()}-{short}")


def write_once(path: Path, make: Callable[[], str]) -> Path:
    """A private file with what `make` gives, unless it is there already; whole or not at all, whoever dies when."""
    if not path.exists():
        handle, unfinished = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(make())
        with suppress(FileExistsError):  # somebody else was first
            os.link(unfinished, path)
        Path(unfinished).unlink()
    return path
