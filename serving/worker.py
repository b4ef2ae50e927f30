"""The worker's side of its start: it tells its supervisor how far it is, and a start that fails is one line.

Told over a socket pair that the supervisor hands down, which nobody else can reach. The supervisor's end of it closes
when the supervisor dies, however it dies: then the worker finishes its requests and ends as well.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

from errors import AuditUnavailable, FollowupError, SetupError

CHANNEL: Final = "FOLLOWUP_SUPERVISOR_FD"
LOADING: Final = b"l"
READY: Final = b"r"
REFUSED: Final = b"x"

_ROOT: Final = Path(__file__).resolve().parent.parent


def complain(message: str) -> None:
    """One line for the operator, as the commands do."""
    sys.stderr.write(f"followup: {message}\n")
    sys.stderr.flush()


class Start:
    """This process's start, as its supervisor sees it. Without a supervisor nothing is told, and errors pass."""

    def __init__(self) -> None:
        self._channel: socket.socket | None = None

    @classmethod
    def of_this_process(cls) -> "Start":
        start = cls()
        if (descriptor := os.environ.pop(CHANNEL, None)) is not None:
            start._channel = socket.socket(fileno=int(descriptor))
            start._channel.setblocking(False)
            start._channel.set_inheritable(False)
            start._tell(LOADING)
        return start

    def ready(self) -> None:
        """Say so, and from now on end in order when the supervisor is gone. Called on the event loop."""
        # What is there now stays. To look through it for garbage takes 0.1 s, every few thousand requests.
        gc.collect()
        gc.freeze()
        self._tell(READY)
        if self._channel is not None:
            asyncio.get_running_loop().add_reader(self._channel, self._orphaned)

    @contextmanager
    def told(self) -> Iterator[None]:
        """What goes wrong inside ends a supervised process with one line and exit code 1, and passes in any other."""
        try:
            yield
        except Exception as error:
            if self._channel is None:
                raise
            self._refuse(error)

    def _refuse(self, error: Exception) -> NoReturn:
        complain(explanation(error))
        self._tell(REFUSED)
        sys.stdout.flush()
        os._exit(1)  # what is open closes with the process; the frameworks above would print their own stacks

    def _tell(self, word: bytes) -> None:
        if self._channel is not None:
            with suppress(OSError):  # the supervisor is gone: `ready` finds that out
                self._channel.send(word)

    def _orphaned(self) -> None:
        assert self._channel is not None
        asyncio.get_running_loop().remove_reader(self._channel)
        os.kill(os.getpid(), signal.SIGTERM)


def explanation(error: Exception) -> str:
    """What the operator can do about it; never a value of a setting, a statement or a parameter."""
    kind = type(error).__name__
    if isinstance(error, SetupError):
        return " ".join(str(error).split())
    if isinstance(error, AuditUnavailable):
        return f"The audit trail cannot be written ({kind}): is PostgreSQL there, and is DATABASE_URL right?"
    if isinstance(error, FollowupError):
        return f"The server cannot start ({kind}): {error.title}"
    room = type(error).__module__.partition(".")[0]
    if room in {"psycopg", "psycopg_pool", "sqlalchemy"}:
        return f"The database cannot be used ({kind}): is it there, is DATABASE_URL right, did migrations run?"
    if isinstance(error, OSError):
        return f"A file or an address cannot be used ({kind}: {error.strerror}{_place(error)})."
    return f"The server cannot start ({kind}{_place(error)})."


def _place(error: Exception) -> str:
    """Where in our own code, for an error that nobody foresaw."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(_ROOT) and "site-packages" not in file.parts:
            return f" at {file.relative_to(_ROOT)}:{frame.lineno}"
    return ""
