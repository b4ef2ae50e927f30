"""More records than fit into memory, in order: sorted runs in files without a name, merged as they are read.

The files are deleted before anything is written to them, so that nothing is left however the process ends.
"""

import heapq
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final, Self

Record = tuple[str, int, bytes]  # sorted by all three

_HEAD: Final = struct.Struct(">HqI")  # bytes of the name, number, bytes of the content
_RUN_BYTES: Final = 32 * 1024 * 1024
_MOST_RUNS: Final = 64
_OVERHEAD_BYTES: Final = 250  # what Python needs for one record beside its content


class SortedOnDisk:
    """Takes records, then gives them in order, once. `run_bytes` is about what it holds in memory."""

    def __init__(self, folder: Path | None = None, *, run_bytes: int = _RUN_BYTES, most_runs: int = _MOST_RUNS) -> None:
        self._folder = folder
        self._run_bytes = run_bytes
        self._most_runs = most_runs
        self._held: list[Record] = []
        self._held_bytes = 0
        self._runs: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, record: Record) -> None:
        self._held.append(record)
        self._held_bytes += len(record[2]) + _OVERHEAD_BYTES
        if self._held_bytes > self._run_bytes:
            self._spill()

    def __iter__(self) -> Iterator[Record]:
        self._held.sort()
        return heapq.merge(self._held, *map(_read, self._runs))

    def close(self) -> None:
        self._held = []
        for run in self._runs:
            run.close()

    def _spill(self) -> None:
        self._held.sort()
        self._runs.append(self._written(self._held))
        self._held, self._held_bytes = [], 0
        if len(self._runs) >= self._most_runs:
            merged = self._written(heapq.merge(*map(_read, self._runs)))
            for run in self._runs:
                run.close()
            self._runs = [merged]

    def _written(self, records: Iterable[Record]) -> IO[bytes]:
        run = TemporaryFile(dir=self._folder)  # noqa: SIM115 - it lives as long as this object
        for name, number, content in records:
            encoded = name.encode()
            run.write(_HEAD.pack(len(encoded), number, len(content)) + encoded + content)
        run.flush()
        return run


def _read(run: IO[bytes]) -> Iterator[Record]:
    run.seek(0)
    while head := run.read(_HEAD.size):
        name, number, content = _HEAD.unpack(head)
        yield run.read(name).decode(), number, run.read(content)
