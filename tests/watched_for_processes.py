"""The service in a worker that writes down each process that it starts, to the file WATCHED_FOR_PROCESSES names."""

import os
import sys
from pathlib import Path
from typing import Any

_STARTING = {"os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen"}


def _write(line: str) -> None:
    with Path(os.environ["WATCHED_FOR_PROCESSES"]).open("a") as file:
        file.write(f"{line}\n")


def _watch(event: str, _arguments: tuple[Any, ...]) -> None:
    if event in _STARTING:
        _write(event)


if "--fd" in sys.argv:  # a worker; the process that starts it has to start it
    sys.addaudithook(_watch)
    _write("watching")

from service import FollowupML  # noqa: E402

__all__ = ["FollowupML"]
