"""How training shows that it goes on: a bar that leaves no trace; a plain line now and then where no terminal is; or
nothing at all.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all

_SECONDS: Final = 10.0  # no phase that goes on is silent for longer
_TENTHS: Final = 10
_LEAST_SECONDS: Final = 1.0  # between two lines of one phase


def silent(what: str, done: int, total: int) -> None:
    """No progress is shown."""


class PlainLines:
    """A line for each phase when it starts, then one every tenth of its steps, or 10 seconds, whichever comes first.

    Lines of one phase are at least a second apart, however fast its steps are.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._stream, self._clock = stream, clock
        self._phase: str | None = None
        self._tenth = 0
        self._at = self._began = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now, tenth = self._clock(), _TENTHS * done // max(total, 1)
        if what != self._phase:
            self._phase, self._began = what, now
            self._write(what, tenth, now)
            return
        since = now - self._at
        if since >= _SECONDS or (since >= _LEAST_SECONDS and tenth > self._tenth):
            share = f" {100 * done // total} %" if total > 1 else ""
            self._write(f"{what}{share}, {now - self._began:.0f} s", tenth, now)

    def _write(self, line: str, tenth: int, now: float) -> None:
        self._tenth, self._at = tenth, now
        self._stream.write(f"{line}\n")
        self._stream.flush()


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on standard error while the block runs; plain lines where that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainLines(sys.stderr)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=None)

        def show(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total if total > 1 else None)

        yield show
