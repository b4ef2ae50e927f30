"""What every result cache must do; the in-memory one and the real one pass the same tests."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from audit.envelope import KeyedDigest
from inference.cache import CacheKeys, MemoryCache, RedisCache, ResultCache
from tests.conftest import data_key, eventually

KEY = data_key()


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[ResultCache]:
    if request.param == "memory":
        yield MemoryCache()
        return
    client = Redis(unix_socket_path=request.getfixturevalue("valkey_socket"))
    cache = RedisCache(client, ttl_s=60, timeout_s=1.0)
    await cache.open()
    yield cache
    await cache.close()


def key() -> bytes:
    return b"test:" + os.urandom(16)


async def test_what_was_put_is_found_and_nothing_else(cache: ResultCache) -> None:
    first, second = key(), key()
    assert await cache.get(first, KEY) is None
    cache.put(first, b"one", KEY)
    await eventually(lambda: _is(cache, first, b"one"))
    assert await cache.get(second, KEY) is None
    cache.put(first, b"two", KEY)
    await eventually(lambda: _is(cache, first, b"two"))


async def test_many_at_once_each_find_their_own(cache: ResultCache) -> None:
    values = {key(): b"%d" % number for number in range(500)}
    for each, value in values.items():
        cache.put(each, value, KEY)
    last = list(values)[-1]
    await eventually(lambda: _is(cache, last, values[last]))
    found = await asyncio.gather(*(cache.get(each, KEY) for each in values))
    assert found == list(values.values())


async def test_several_may_ask_for_one_key(cache: ResultCache) -> None:
    shared = key()
    cache.put(shared, b"value", KEY)
    await eventually(lambda: _is(cache, shared, b"value"))
    tasks = [asyncio.create_task(cache.get(shared, KEY)) for _ in range(10)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[1:] == [b"value"] * 9


async def _is(cache: ResultCache, each: bytes, value: bytes) -> bool:
    return await cache.get(each, KEY) == value


def test_a_key_tells_apart_everything_the_result_depends_on() -> None:
    parts: dict[str, Any] = {
        "subject": "s",
        "model": "m",
        "model_digest": "d",
        "preprocessing": "p",
        "canonical_input": {"a": 1, "b": [2]},
    }
    keys = CacheKeys(KeyedDigest(lambda: bytes(32)), tenant="t")
    base = keys.key(**parts)
    assert base == keys.key(**{**parts, "canonical_input": {"b": [2], "a": 1}})
    others = [keys.key(**{**parts, name: "other"}) for name in parts]
    others += [CacheKeys(KeyedDigest(lambda: bytes(32)), tenant="u").key(**parts)]
    others += [CacheKeys(KeyedDigest(lambda: b"x" * 32), tenant="t").key(**parts)]
    assert len({base, *others}) == len(others) + 1
