"""Strangers who go on after their quota is spent: counted, and written down as one event a minute and address.

One row for each of their requests would let anybody without a token fill a table that may not be emptied for six years.
What is counted here was refused with 429 and told nothing; a server that is killed loses the count of a minute.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final
from uuid import uuid4

from access.principal import ANONYMOUS
from access.quotas import network_of
from audit.record import Caller, Event, new_id
from audit.trail import Trail
from errors import AuditUnavailable

log = logging.getLogger(__name__)

LIMITED: Final = "limited"
_EVERY_S: Final = 60.0
_MOST_ADDRESSES: Final = 1000  # a minute; what comes from more of them shares one event without an address


class StrangerTally:
    """Counts by address; `open` to have them written. `told` is called for each request that is counted."""

    def __init__(self, trail: Trail, *, every_s: float = _EVERY_S, told: Callable[[], None] = lambda: None) -> None:
        self._trail = trail
        self._every_s = every_s
        self._told = told
        self._counts: dict[str, tuple[str | None, int]] = {}
        self._writing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._writing = asyncio.create_task(self._run(), name="stranger-tally")

    async def close(self) -> None:
        """What was counted last is still written."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self.flush()

    def count(self, address: str | None) -> None:
        """One more request from there. IPv6 addresses of one network are counted together, as in the quota."""
        self._told()
        network = network_of(address)
        if network not in self._counts and len(self._counts) >= _MOST_ADDRESSES:
            network, address = "others", None
        first, counted = self._counts.get(network, (address, 0))
        self._counts[network] = (first, counted + 1)

    async def flush(self) -> None:
        """Write an event for each address. What cannot be written now is kept, and counted on."""
        counts, self._counts = self._counts, {}
        written = await asyncio.gather(
            *(self._trail.event(_event(address, counted)) for address, counted in counts.values()),
            return_exceptions=True,
        )
        for (network, (address, counted)), outcome in zip(counts.items(), written, strict=True):
            if isinstance(outcome, AuditUnavailable):
                later = self._counts.get(network, (address, 0))[1]
                self._counts[network] = (address, counted + later)
            elif isinstance(outcome, BaseException):
                raise outcome

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self.flush()


def _event(address: str | None, counted: int) -> Event:
    caller = Caller(
        principal=ANONYMOUS.subject,
        roles="",
        client_id="",
        purpose_of_use="",
        request_id=uuid4(),
        route="unknown",
        ip_address=address,
        user_agent=None,
    )
    return Event(
        id=new_id(),
        caller=caller,
        action="unknown",
        status=429,
        outcome=LIMITED,
        patients=(),
        target=f"{counted} requests",
        latency_ms=0.0,
    )
