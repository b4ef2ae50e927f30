"""The pages on how good versions are, as they were registered: read off the event loop, and once for many.

A page is shown only with all files of its version as registered. That takes hashing them all, so what was found is kept
for as long as no file of the version looks touched (inode, size, times), for the few pages that were asked for last.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from errors import NotFound
from registry import opening
from registry.catalog import Registered
from registry.store import REPORT_FILE

_MOST_BYTES: Final = 16 * 1024 * 1024

_Look = Sequence[tuple[str, int, int, int, int]]


@dataclass(frozen=True, slots=True)
class _Kept:
    folder: Path
    look: _Look
    page: bytes


class Reports:
    """Reads one at a time, in a thread."""

    def __init__(self, *, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._reading = asyncio.Lock()

    async def page(self, version: Registered) -> bytes:
        """Raises NotFound for a version without one, or whose files are not those that were registered."""
        async with self._reading:
            return await asyncio.to_thread(self._page, version)

    def _page(self, version: Registered) -> bytes:
        key = f"{version.name}:{version.version}:{version.digest}"
        kept = self._kept.pop(key, None)
        if kept is None or _look_of(kept.folder) != kept.look:
            kept = _read(version)
        self._keep(key, kept)
        return kept.page

    def _keep(self, key: str, kept: _Kept) -> None:
        self._kept[key] = kept
        while sum(len(each.page) for each in self._kept.values()) > self._most_bytes:
            self._kept.popitem(last=False)


def _read(version: Registered) -> _Kept:
    try:
        folder = opening.folder_of(version.name, version.version)
        look = _look_of(folder)  # before the hashing: what is changed meanwhile is looked at again
        stored = opening.get(version.name, version.version, expected_digest=version.digest)
        page = (stored.path / REPORT_FILE).read_bytes()
    except Exception as error:  # whatever a store makes of what lies there
        raise NotFound("This version has no report, or its files are not those that were registered.") from error
    return _Kept(folder, look, page)


def _look_of(folder: Path) -> _Look:
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            seen = path.stat()
        except OSError:  # it went away meanwhile
            return []
        found.append((str(path), seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns))
    return found
