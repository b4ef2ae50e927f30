"""How many connections there may be, in all and from one address, and which one goes when a newcomer finds no room.

A stranger can open connections for nothing; a probe, the database and somebody with a request must still get one. So
the number in all stays below the limit on open files, and who waits for a request that never comes makes room first.
"""

import resource
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Final, Protocol

from uvicorn.middleware.proxy_headers import _TrustedHosts

from access.quotas import network_of

_FOR_OUR_OWN_FILES: Final = 256  # the database, the cache, model files, logs
_FOR_PROBES: Final = 32
_MOST_FILES_WANTED: Final = 65_536
_LEAST: Final = 64


class Room(Enum):
    """What a new connection is good for."""

    ANY = "any request"
    PROBES = "probes only"
    NONE = "nothing"


class Connection(Protocol):
    """One connection, as the table sees it."""

    def evict(self) -> None:
        """Close at once: somebody else needs the place."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """`exempt` tells whether an address is not limited by itself, such as a trusted proxy's."""

    in_all: int
    by_address: int
    exempt: Callable[[str], bool] = lambda _address: False


def below_the_file_limit(wanted: int) -> int:
    """How many connections there may be in all; 0: as many as files allow. Raises the soft limit as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    room = max(_LEAST, most - _FOR_OUR_OWN_FILES - _FOR_PROBES)
    return min(wanted, room) if wanted else room


def is_trusted(proxies: str) -> Callable[[str], bool]:
    """Which addresses a list of trusted proxies means: as uvicorn reads it, which believes their X-Forwarded-For."""
    return _TrustedHosts(proxies).__contains__


def is_loopback(address: str) -> bool:
    """Whether it is this very machine."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


class _Address:
    """What comes from one address."""

    __slots__ = ("count", "waiting")

    def __init__(self) -> None:
        self.count = 0
        self.waiting: dict[Connection, None] = {}  # for a request, longest first


class Connections:
    """All connections of this process. Belongs to one event loop."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._addresses: dict[Connection, str | None] = {}
        self._by_address: dict[str, _Address] = {}
        # Who never sent a request goes before who did and may come again.
        self._waiting: tuple[dict[Connection, None], dict[Connection, None]] = ({}, {})
        self.refused: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._addresses)

    def add(self, connection: Connection, address: str | None) -> Room:
        """Take a new one in; with Room.NONE it is not, and must be closed."""
        limited = None if address is None or self._limits.exempt(address) else network_of(address)
        if limited is not None and not self._make_room_for(limited):
            self.refused["address"] += 1
            return Room.NONE
        room = Room.ANY
        if len(self._addresses) >= self._limits.in_all:
            self._evict_one(*self._waiting)
        if len(self._addresses) >= self._limits.in_all:
            if len(self._addresses) >= self._limits.in_all + _FOR_PROBES:
                self.refused["all"] += 1
                return Room.NONE
            room = Room.PROBES
        self._addresses[connection] = limited
        if limited is not None:
            self._by_address.setdefault(limited, _Address()).count += 1
        self.waits(connection, again=False)
        return room

    def remove(self, connection: Connection) -> None:
        """It is closed. Fine when it is not known any more."""
        if connection not in self._addresses:
            return
        self.works(connection)
        address = self._addresses.pop(connection)
        if address is not None:
            of_address = self._by_address[address]
            of_address.count -= 1
            if of_address.count == 0:
                del self._by_address[address]

    def waits(self, connection: Connection, *, again: bool) -> None:
        """It waits for a request: its first, or `again` after an answer."""
        if connection not in self._addresses:
            return
        self._waiting[not again].pop(connection, None)
        self._waiting[again][connection] = None
        if (address := self._addresses[connection]) is not None:
            self._by_address[address].waiting[connection] = None

    def works(self, connection: Connection) -> None:
        """A request of it is complete, or its body on the way."""
        for waiting in self._waiting:
            waiting.pop(connection, None)
        if (address := self._addresses.get(connection)) is not None:
            self._by_address[address].waiting.pop(connection, None)

    def _make_room_for(self, address: str) -> bool:
        of_address = self._by_address.get(address)
        if of_address is None or of_address.count < self._limits.by_address:
            return True
        return self._evict_one(of_address.waiting)

    def _evict_one(self, *waiting: dict[Connection, None]) -> bool:
        for group in waiting:
            for connection in group:
                self.refused["evicted"] += 1
                self.remove(connection)
                connection.evict()
                return True
        return False
