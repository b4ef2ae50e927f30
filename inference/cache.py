"""Results that were computed before, in Redis or Valkey. Fails open: without it, predictions take longer and nothing
else.

The key is an HMAC over everything the result depends on, so it can't be guessed from a dictionary of likely notes and
never outlives a model version. Values are sealed. What is asked for at the same time travels in one MGET, what is
stored in one pipeline: a look-up must cost less than the prediction it saves.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from audit.data_keys import DataKey
from audit.envelope import KeyedDigest
from errors import InternalFault

log = logging.getLogger(__name__)

_PAUSE_BETWEEN_PROBES_S: Final = 0.5
_MOST_KEYS: Final = 128
_MOST_WAITING_WRITES: Final = 2048
_PREFIX: Final = b"followup:"


class ResultCache(Protocol):
    """Sealed results by key. None of these raises."""

    @property
    def enabled(self) -> bool:
        """Whether it answers just now."""
        ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def get(self, key: bytes, data_key: DataKey) -> bytes | None: ...

    def put(self, key: bytes, value: bytes, data_key: DataKey) -> None:
        """Store, sealed with the key of whom it is about, without making the caller wait."""
        ...


class CacheKeys:
    """Makes keys: HMAC-SHA256 over tenant, subject, model, digest of its files, preprocessing version and the input.

    The subject is whom the result is about. Nobody learns from a hit that somebody else sent the same text, and a
    result is gone once its subject's key is.
    """

    def __init__(self, digest: KeyedDigest, *, tenant: str) -> None:
        self._digest = digest
        self._tenant = tenant

    def key(self, *, subject: str, model: str, model_digest: str, preprocessing: str, canonical_input: Any) -> bytes:
        parts = [self._tenant, subject, model, model_digest, preprocessing, canonical_input]
        return _PREFIX + self._digest.of(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS))


class NoCache:
    """Where no Redis is configured."""

    enabled = False

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    async def get(self, key: bytes, data_key: DataKey) -> bytes | None:
        return None

    def put(self, key: bytes, value: bytes, data_key: DataKey) -> None:
        return


class MemoryCache(NoCache):
    """Inside the process, without an end to its growth: for tests."""

    enabled = True

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}

    async def get(self, key: bytes, data_key: DataKey) -> bytes | None:
        return self._values.get(key)

    def put(self, key: bytes, value: bytes, data_key: DataKey) -> None:
        self._values[key] = value


class RedisCache:
    """The real one. After a failure nobody asks Redis any more until a probe in the background finds it well again."""

    def __init__(self, client: Redis, *, ttl_s: int, timeout_s: float) -> None:
        self._client = client
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._well = False
        self._reads: dict[bytes, asyncio.Future[bytes | None]] = {}
        self._writes: dict[bytes, bytes] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def enabled(self) -> bool:
        return self._well

    async def open(self) -> None:
        if not await self._probe():
            self._fail(None)

    async def close(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._client.aclose()

    async def get(self, key: bytes, data_key: DataKey) -> bytes | None:
        if not self._well:
            return None
        waiting = self._reads.get(key)
        if waiting is None:
            waiting = self._reads[key] = asyncio.get_running_loop().create_future()
            self._start("read", self._read)
        sealed = await asyncio.shield(waiting)  # another caller may wait for the same key
        if sealed is None:
            return None
        try:
            return data_key.open(sealed, f"cache|{key.hex()}")
        except InternalFault:
            return None  # sealed under another key, or damaged: as good as absent

    def put(self, key: bytes, value: bytes, data_key: DataKey) -> None:
        if self._well and len(self._writes) < _MOST_WAITING_WRITES:
            self._writes[key] = data_key.seal(value, f"cache|{key.hex()}")
            self._start("write", self._write)

    def _start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        if name not in self._tasks:
            self._tasks[name] = asyncio.create_task(self._run(name, work), name=f"cache-{name}")

    async def _run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            if name == "read":  # whatever ended it, nobody may wait for ever
                for waiting in self._reads.values():
                    if not waiting.done():
                        waiting.set_result(None)
                self._reads.clear()
            del self._tasks[name]  # in the same step in which the work saw that nothing is left

    async def _read(self) -> None:
        while self._reads:
            await asyncio.sleep(0)  # let everybody who is ready join
            taken = dict(list(self._reads.items())[:_MOST_KEYS])
            for key in taken:
                del self._reads[key]
            values: Sequence[Any] = [None] * len(taken)
            try:
                if self._well:
                    async with asyncio.timeout(self._timeout_s):
                        values = await self._client.mget(list(taken))
            except (RedisError, OSError, TimeoutError) as error:
                self._fail(error)
            finally:
                for future, value in zip(taken.values(), values, strict=True):
                    if not future.done():
                        future.set_result(value)

    async def _write(self) -> None:
        while self._writes and self._well:
            batch, self._writes = self._writes, {}
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._store(batch)
            except (RedisError, OSError, TimeoutError) as error:
                self._fail(error)
        self._writes.clear()

    async def _store(self, batch: Mapping[bytes, bytes]) -> None:
        async with self._client.pipeline(transaction=False) as pipeline:
            for key, value in batch.items():
                pipeline.set(key, value, ex=self._ttl_s)
            await pipeline.execute()

    def _fail(self, error: Exception | None) -> None:
        if self._well or error is None:
            log.warning("cache: not reachable%s; going on without", f" ({type(error).__name__})" if error else "")
        self._well = False
        self._start("probe", self._recover)

    async def _recover(self) -> None:
        while not await self._probe():  # noqa: ASYNC110 - what is waited for is outside this process
            await asyncio.sleep(_PAUSE_BETWEEN_PROBES_S)
        log.warning("cache: back")

    async def _probe(self) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._client.ping()
        except (RedisError, OSError, TimeoutError):
            return False
        self._well = True
        return True
