"""How much one caller may ask for in a minute, counted for all servers together.

Counts are leased from Redis in blocks of a twentieth of the quota and spent in memory, so that a request costs no round
trip. All servers together never lease more than the quota; a caller spread over many servers may meet it up to a block
for each server early. Without Redis, or when it is slow, each server counts for itself. Never an error, never a wait
over a tenth of a second.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, Protocol

from limits.aio.storage import RedisStorage
from redis.asyncio import Redis
from redis.exceptions import RedisError

from errors import TooManyRequests

log = logging.getLogger(__name__)

_WINDOW_S: Final = 60
_BLOCKS: Final = 20
_LONGEST_WAIT_S: Final = 0.05
_PAUSE_AFTER_FAILURE_S: Final = 2.0
_MOST_IN_MEMORY: Final = 50_000
_IPV6_NETWORK_BITS: Final = 64  # one household or one machine has all of them


class Counters(Protocol):
    """The storages of `limits` fit."""

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to a counter that ends after `expiry` seconds; what it is then."""
        ...


def redis_counters(client: Redis) -> Counters:
    """Counters on the connections of a client, which its maker closes. Its time-outs are those of each lease."""
    options: dict[str, Any] = {"connection_pool": client.connection_pool}
    return RedisStorage("async+redis://", implementation="redispy", key_prefix="followup-quota", **options)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a quota, for the RateLimit headers. `remaining` is a lower bound known without asking anybody."""

    limit: int
    remaining: int
    reset_s: int


class _Window:
    """One caller's minute as this process knows it."""

    __slots__ = ("counted", "in_hand", "leasing", "number", "spent")

    def __init__(self, number: int) -> None:
        self.number = number
        self.spent = 0  # here
        self.in_hand = 0  # leased and not spent
        self.counted = 0  # by all servers, when it was last asked for
        self.leasing = asyncio.Lock()


class Quotas:
    """Quotas of principals and, for who has no valid token, of addresses. A quota of 0 is none.

    `digest` is keyed: Redis learns nobody's name. `clock` is in seconds since 1970.
    """

    def __init__(
        self,
        counters: Counters | None,
        digest: Callable[[bytes], bytes],
        *,
        per_minute: int,
        anonymous_per_minute: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._counters = counters
        self._digest = digest
        self._per_minute = per_minute
        self._anonymous_per_minute = anonymous_per_minute
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._without_until = float("-inf")
        self._well = True

    async def spend(self, subject: str, cost: int = 1) -> Allowance | None:
        """Count `cost` requests of a principal. Raises TooManyRequests, and then counts nothing."""
        return await self._spend(f"sub|{subject}", self._per_minute, cost)

    async def spend_anonymous(self, address: str | None, cost: int = 1) -> Allowance | None:
        """Count requests without a valid token by where they come from. Raises TooManyRequests."""
        return await self._spend(f"ip|{network_of(address)}", self._anonymous_per_minute, cost)

    async def _spend(self, who: str, limit: int, cost: int) -> Allowance | None:
        if limit == 0:
            return None
        now = self._clock()
        window = self._window(who, int(now // _WINDOW_S))
        if window.in_hand < cost <= limit:
            async with window.leasing:  # one lease at a time; the others find what it brought
                if window.in_hand < cost:
                    await self._lease(who, window, limit, cost)
        reset_s = max(1, math.ceil((window.number + 1) * _WINDOW_S - now))
        if window.in_hand < cost:
            left = self._remaining(window, limit)
            raise TooManyRequests("Wait until RateLimit-Reset.", limit=limit, remaining=left, retry_after_s=reset_s)
        window.in_hand -= cost
        window.spent += cost
        return Allowance(limit, self._remaining(window, limit), reset_s)

    def _window(self, who: str, number: int) -> _Window:
        window = self._windows.get(who)
        if window is None or window.number != number:
            window = self._windows[who] = _Window(number)
        self._windows.move_to_end(who)
        if len(self._windows) > _MOST_IN_MEMORY:
            self._windows.popitem(last=False)
        return window

    async def _lease(self, who: str, window: _Window, limit: int, cost: int) -> None:
        if window.counted >= limit:
            return  # nothing is left of this minute, for anybody
        wanted = max(limit // _BLOCKS, cost - window.in_hand, 1)
        counted = await self._count(who, window, wanted)
        if counted is None:
            window.in_hand = limit - window.spent
            return
        before = max(counted - wanted, 0)
        window.counted = counted
        leased = max(0, min(wanted, limit - before))
        window.in_hand = min(window.in_hand + leased, limit - window.spent)

    async def _count(self, who: str, window: _Window, amount: int) -> int | None:
        """What all servers have leased, this lease included; None when Redis can't say in time."""
        if self._counters is None or self._clock() < self._without_until:
            return None
        key = self._digest(f"{who}|{window.number}".encode()).hex()
        try:
            async with asyncio.timeout(_LONGEST_WAIT_S):
                counted = await self._counters.incr(key, 2 * _WINDOW_S, amount)
        except (RedisError, OSError, TimeoutError) as error:
            if self._well:
                log.warning("quotas: Redis does not answer (%s), each server counts for itself", type(error).__name__)
            self._well = False
            self._without_until = self._clock() + _PAUSE_AFTER_FAILURE_S
            return None
        self._well = True
        return counted

    def _remaining(self, window: _Window, limit: int) -> int:
        return window.in_hand + max(0, limit - max(window.counted, window.spent + window.in_hand))


def network_of(address: str | None) -> str:
    """What a caller cannot change at will, for counting: an IPv4 address, the network of an IPv6 one, or "unknown"."""
    if address is None:
        return "unknown"
    try:
        parsed = ip_address(address)
    except ValueError:
        return "unknown"
    if parsed.version == 6 and parsed.ipv4_mapped is not None:  # as a socket for both kinds names them
        parsed = parsed.ipv4_mapped
    if parsed.version == 4:
        return str(parsed)
    return f"{int(parsed) >> (128 - _IPV6_NETWORK_BITS):x}"
