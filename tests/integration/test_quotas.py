"""Quotas against a real Valkey, and without one."""

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from access.quotas import Counters, Quotas, redis_counters
from errors import TooManyRequests

MINUTE = 60.0


@pytest.fixture
async def valkey(valkey_socket: str) -> AsyncIterator[Redis]:
    client = Redis(
        unix_socket_path=valkey_socket, socket_timeout=0.1, socket_connect_timeout=0.1, retry=Retry(NoBackoff(), 0)
    )
    yield client
    await client.aclose()


@pytest.fixture
def digest() -> Callable[[bytes], bytes]:
    """Another one for each test, so that none meets another's counts."""
    key = uuid.uuid4().bytes
    return lambda data: hashlib.blake2b(data, key=key).digest()


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0  # a whole minute

    def __call__(self) -> float:
        return self.now


class Counted:
    """Counts the round trips."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self.calls = 0

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        self.calls += 1
        return await self._counters.incr(key, expiry, amount)


class Hanging:
    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        await asyncio.sleep(60)
        raise AssertionError


async def allowed(quotas: Quotas, subject: str, attempts: int, cost: int = 1) -> int:
    passed = 0
    for _ in range(attempts):
        try:
            await quotas.spend(subject, cost)
            passed += 1
        except TooManyRequests:
            pass
    return passed


@pytest.mark.parametrize("limit", [1, 7, 59, 100, 1000])
async def test_exactly_the_quota_passes_and_the_next_minute_is_new(
    valkey: Redis, digest: Callable[[bytes], bytes], limit: int
) -> None:
    clock = Clock()
    quotas = Quotas(redis_counters(valkey), digest, per_minute=limit, anonymous_per_minute=1, clock=clock)
    assert await allowed(quotas, "s", limit + 20) == limit
    assert await allowed(quotas, "another", 1) == 1
    clock.now += MINUTE
    assert await allowed(quotas, "s", limit + 20) == limit


async def test_servers_count_together(valkey: Redis, digest: Callable[[bytes], bytes]) -> None:
    clock = Clock()
    servers = [
        Quotas(redis_counters(valkey), digest, per_minute=100, anonymous_per_minute=1, clock=clock) for _ in range(3)
    ]
    passed = await asyncio.gather(*(allowed(server, "s", 100) for server in servers))
    assert sum(passed) == 100


async def test_what_runs_at_the_same_time_is_counted_too(valkey: Redis, digest: Callable[[bytes], bytes]) -> None:
    quotas = Quotas(redis_counters(valkey), digest, per_minute=100, anonymous_per_minute=1, clock=Clock())
    assert sum(await asyncio.gather(*(allowed(quotas, "s", 1) for _ in range(300)))) == 100


async def test_a_request_costs_no_round_trip(valkey: Redis, digest: Callable[[bytes], bytes]) -> None:
    counters = Counted(redis_counters(valkey))
    quotas = Quotas(counters, digest, per_minute=6000, anonymous_per_minute=1, clock=Clock())
    assert await allowed(quotas, "s", 7000) == 6000
    assert counters.calls == 20


async def test_a_batch_costs_its_items(valkey: Redis, digest: Callable[[bytes], bytes]) -> None:
    quotas = Quotas(redis_counters(valkey), digest, per_minute=100, anonymous_per_minute=1, clock=Clock())
    assert await allowed(quotas, "s", 5, cost=64) == 1
    assert await allowed(quotas, "s", 100) == 36
    assert await allowed(quotas, "t", 1, cost=101) == 0
    assert await allowed(quotas, "t", 101) == 100  # what can never pass takes nothing away


async def test_an_answer_says_what_is_left_and_until_when(valkey: Redis, digest: Callable[[bytes], bytes]) -> None:
    clock = Clock()
    clock.now += 42.5
    quotas = Quotas(redis_counters(valkey), digest, per_minute=100, anonymous_per_minute=1, clock=clock)
    left = []
    for _ in range(100):
        allowance = await quotas.spend("s")
        assert allowance is not None
        assert (allowance.limit, allowance.reset_s) == (100, 18)
        left.append(allowance.remaining)
    assert left == list(range(99, -1, -1))
    with pytest.raises(TooManyRequests) as refused:
        await quotas.spend("s")
    assert (refused.value.limit, refused.value.remaining, refused.value.retry_after_s) == (100, 0, 18)


async def test_redis_learns_no_name(valkey: Redis, digest: Callable[[bytes], bytes]) -> None:
    quotas = Quotas(redis_counters(valkey), digest, per_minute=100, anonymous_per_minute=10, clock=Clock())
    await quotas.spend("canary-subject")
    await quotas.spend_anonymous("203.0.113.77")
    keys = b" ".join([key async for key in valkey.scan_iter(match="followup-quota*")])
    assert keys
    assert b"canary" not in keys
    assert b"203.0.113.77" not in keys


async def test_who_has_no_token_is_counted_by_address_or_network(
    valkey: Redis, digest: Callable[[bytes], bytes]
) -> None:
    quotas = Quotas(redis_counters(valkey), digest, per_minute=1, anonymous_per_minute=3, clock=Clock())

    async def passes(address: str | None) -> bool:
        try:
            await quotas.spend_anonymous(address)
        except TooManyRequests:
            return False
        return True

    assert [await passes("192.0.2.1") for _ in range(4)] == [True, True, True, False]
    assert await passes("192.0.2.2")
    assert [await passes(f"2001:db8::{n}") for n in range(4)] == [True, True, True, False]
    assert await passes("2001:db8:0:1::1")
    assert [await passes("::ffff:192.0.2.7") for _ in range(4)] == [True, True, True, False]
    assert await passes("::ffff:192.0.2.8")
    assert not await passes("192.0.2.7")
    assert [await passes(address) for address in (None, "a socket", None, "")] == [True, True, True, False]


async def test_a_quota_of_nothing_is_none(digest: Callable[[bytes], bytes]) -> None:
    quotas = Quotas(Hanging(), digest, per_minute=0, anonymous_per_minute=0)
    assert await quotas.spend("s", 1000) is None
    assert await quotas.spend_anonymous("192.0.2.1") is None


async def test_a_redis_that_hangs_or_is_gone_costs_neither_an_error_nor_a_tenth_of_a_second(
    digest: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Redis(unix_socket_path=str(tmp_path / "none"), retry=Retry(NoBackoff(), 0))
    for counters in (Hanging(), redis_counters(gone), None):
        caplog.clear()
        quotas = Quotas(counters, digest, per_minute=50, anonymous_per_minute=1, clock=Clock())
        started = time.perf_counter()
        await quotas.spend("s")
        assert time.perf_counter() - started < 0.1
        started = time.perf_counter()
        assert await allowed(quotas, "s", 100) == 49
        assert await allowed(quotas, "t", 100) == 50
        assert time.perf_counter() - started < 0.1
        assert caplog.text.count("does not answer") == (0 if counters is None else 1)
    await gone.aclose()


async def test_redis_is_asked_again_after_a_while(valkey: Redis, digest: Callable[[bytes], bytes]) -> None:
    class Flaky:
        broken = True

        async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
            if self.broken:
                raise ConnectionError
            return await redis_counters(valkey).incr(key, expiry, amount)

    clock, flaky = Clock(), Flaky()
    quotas = Quotas(flaky, digest, per_minute=10, anonymous_per_minute=1, clock=clock)
    assert await allowed(quotas, "s", 20) == 10
    flaky.broken = False
    clock.now += MINUTE
    other = Quotas(redis_counters(valkey), digest, per_minute=10, anonymous_per_minute=1, clock=clock)
    assert await allowed(other, "s", 4) == 4
    assert await allowed(quotas, "s", 20) == 6


async def test_memory_is_bounded(digest: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    import access.quotas

    monkeypatch.setattr(access.quotas, "_MOST_IN_MEMORY", 100)
    quotas = Quotas(None, digest, per_minute=10, anonymous_per_minute=1, clock=Clock())
    for number in range(1000):
        await quotas.spend(f"s-{number}")
    assert len(quotas._windows) == 100
