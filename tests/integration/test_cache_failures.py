"""The cache fails open: dead, frozen or full of rubbish, it costs a moment and nothing else."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from embedded.valkey import EmbeddedValkey
from inference.cache import RedisCache
from tests.conftest import data_key, eventually

KEY = data_key()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(tmp_path)
    server.start()
    yield server
    server.stop()


def client(socket: object) -> "Redis":
    return Redis(
        unix_socket_path=str(socket), socket_timeout=0.1, socket_connect_timeout=0.1, retry=Retry(NoBackoff(), 0)
    )


@pytest.fixture
async def cache(valkey: EmbeddedValkey) -> AsyncIterator[RedisCache]:
    cache = RedisCache(client(valkey.socket), ttl_s=60, timeout_s=0.1)
    await cache.open()
    yield cache
    await cache.close()


async def test_frozen_it_is_left_alone_and_used_again_when_it_is_back(
    cache: RedisCache, valkey: EmbeddedValkey
) -> None:
    cache.put(b"k", b"v", KEY)
    await eventually(lambda: _has(cache, b"k"))
    process_id = valkey.process_id()
    assert process_id is not None
    os.kill(process_id, signal.SIGSTOP)
    try:
        outcomes = await asyncio.wait_for(asyncio.gather(*(cache.get(b"k%d" % n, KEY) for n in range(64))), timeout=2)
        assert outcomes == [None] * 64
        assert not cache.enabled
        assert await asyncio.wait_for(cache.get(b"k", KEY), timeout=0.05) is None
        cache.put(b"other", b"v", KEY)
    finally:
        os.kill(process_id, signal.SIGCONT)
    await eventually(lambda: cache.enabled)
    assert await cache.get(b"k", KEY) == b"v"


async def test_killed_and_started_again_it_is_used_again(cache: RedisCache, valkey: EmbeddedValkey) -> None:
    process_id = valkey.process_id()
    assert process_id is not None
    os.kill(process_id, signal.SIGKILL)
    assert await cache.get(b"k", KEY) is None
    await eventually(lambda: not cache.enabled)
    again = EmbeddedValkey(valkey.folder.parent)
    again.start()
    await eventually(lambda: cache.enabled)
    cache.put(b"k", b"v", KEY)
    await eventually(lambda: _has(cache, b"k"))
    again.stop()


async def test_where_nothing_listens_it_opens_as_not_enabled(tmp_path: Path) -> None:
    cache = RedisCache(client(tmp_path / "nothing.sock"), ttl_s=60, timeout_s=0.1)
    await cache.open()
    assert not cache.enabled
    assert await cache.get(b"k", KEY) is None
    await cache.close()


async def test_values_of_another_key_or_damaged_ones_are_as_good_as_absent(
    cache: RedisCache, valkey: EmbeddedValkey
) -> None:
    raw = client(valkey.socket)
    await raw.set(b"rubbish", b"not sealed at all")
    await raw.set(b"moved", KEY.seal(b"v", "cache|" + b"elsewhere".hex()))
    await raw.set(b"foreign", data_key(b"x" * 32).seal(b"v", "cache|" + b"foreign".hex()))
    await raw.aclose()
    assert [await cache.get(key, KEY) for key in (b"rubbish", b"moved", b"foreign")] == [None] * 3
    assert cache.enabled


async def test_values_are_sealed_and_expire(cache: RedisCache, valkey: EmbeddedValkey) -> None:
    cache.put(b"k", b"CANARY", KEY)
    await eventually(lambda: _has(cache, b"k"))
    raw = client(valkey.socket)
    stored = await raw.get(b"k")
    assert stored is not None
    assert b"CANARY" not in stored
    assert 0 < await raw.ttl(b"k") <= 60
    await raw.aclose()


async def _has(cache: RedisCache, key: bytes) -> bool:
    return await cache.get(key, KEY) is not None
