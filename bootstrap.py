"""The composition root: builds every object of the server once, from the settings. Tests override parts by keyword."""

import asyncio
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from access.break_glass import BreakGlass, Ceiling
from access.care_team import CareTeam
from access.denylist import Denylist
from access.door import Door
from access.jwks import FetchedKeys, KeySource, PinnedKeys
from access.quotas import Quotas, redis_counters
from access.sessions import LoginSessions
from access.tokens import TokenVerifier
from api.system import System
from api.tally import StrangerTally
from audit.data_keys import DataKeys
from audit.history import FirstAnswers, History
from audit.key_encryption import KeyRing, KmsWrappingKey, LocalWrappingKey, root_key
from audit.trail import Trail
from database.engine import libpq_url, open_async_engine
from database.maintenance import Maintenance
from database.safety import refuse_powerful_role
from inference.cache import CacheKeys, NoCache, RedisCache, ResultCache
from inference.deployments import Deployments, RunnerFactory
from inference.pipeline import Pipeline
from monitoring.figures import Figures
from monitoring.metrics import Metrics
from monitoring.performance import Fanout, PerformanceLogger
from monitoring.seal_lag import SealLag
from registry import signatures
from registry.agreements import require_agreements
from registry.reports import Reports
from registry.signatures import SigningKey
from runners.batching import Limits
from runners.deterioration import DeteriorationRunner
from runners.ner import NerRunner
from settings import Settings, load_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The system and the order in which its parts start and stop."""

    system: System
    token_keys: KeySource
    sessions: LoginSessions
    quota_redis: Redis | None
    keys: DataKeys
    signing_key: SigningKey
    external_models: Sequence[str]
    performance_log: PerformanceLogger
    maintenance: Maintenance
    seal_lag: SealLag
    executor: Executor

    async def open(self) -> None:
        """Connect, load and warm up. Raises when the server could not do its work."""
        if not self.system.demo:
            await refuse_powerful_role(self.system.engine)
        await self.keys.open()
        await self.token_keys.open()
        await self.system.denylist.open()
        await self.sessions.open()
        await self._refuse_external_models()
        await self.system.trail.open()
        await self.system.strangers.open()
        await self.system.cache.open()
        await self.system.deployments.open()
        await self.performance_log.open()
        await self.maintenance.open()
        await self.seal_lag.open()

    async def _refuse_external_models(self) -> None:
        today = datetime.now(UTC).date()
        check = partial(require_agreements, models=self.external_models, key=self.signing_key, today=today)
        async with self.system.engine.connect() as connection:
            await connection.run_sync(check)

    async def close(self) -> None:
        """Stop taking part in anything; what waits for the trail is still written."""
        await self.seal_lag.close()
        await self.maintenance.close()
        await self.system.deployments.close()
        await self.system.strangers.close()
        await self.system.trail.close()
        await self.performance_log.close()
        await self.system.cache.close()
        await self.sessions.close()
        if self.quota_redis is not None:
            await self.quota_redis.aclose()
        await self.system.denylist.close()
        await self.token_keys.close()
        await self.keys.close()
        await self.system.engine.dispose()
        await asyncio.to_thread(self.executor.shutdown, cancel_futures=True)


def bootstrap(
    settings: Settings | None = None,
    *,
    cache: ResultCache | None = None,
    trail: Trail | None = None,
    keys: KeySource | None = None,
    runners: Mapping[str, RunnerFactory] | None = None,
) -> Runtime:
    """Build everything; nothing is connected yet."""
    settings = settings or load_settings()
    database_url = settings.database_url.get_secret_value()
    engine = open_async_engine(database_url, pool_size=settings.database_pool_size)
    data_keys = DataKeys(engine, key_ring(settings))
    executor = ThreadPoolExecutor(settings.inference_threads, thread_name_prefix="inference")
    metrics = Metrics()
    performance_log = PerformanceLogger(engine, instance=f"{platform.node()}-{os.getpid()}")
    signing_key = SigningKey(lambda: data_keys.secret(signatures.PURPOSE))
    deployments = Deployments(
        engine,
        runners or _runners(settings),
        executor,
        _limits(settings),
        signing_key,
        refresh_s=settings.model_refresh_s,
    )
    trail = trail or Trail(libpq_url(database_url), data_keys, timeout_s=settings.audit_timeout_ms / 1000)
    cache = cache or _cache(settings)
    care_team = CareTeam(engine)
    denylist = Denylist(engine)
    token_keys = keys or _keys(settings)
    quota_redis = _redis(settings)
    sessions = LoginSessions(engine, data_keys.digest("logins").of)
    pipeline = Pipeline(
        deployments=deployments,
        cache=cache,
        cache_keys=CacheKeys(data_keys.digest("cache keys"), tenant=settings.tenant),
        keys=data_keys,
        trail=trail,
        first_answers=FirstAnswers(engine, data_keys),
        relations=care_team,
        observer=Fanout(metrics, performance_log),
    )
    metrics.gauge("followup_cache_up", "Whether the cache answers.", lambda: float(cache.enabled))
    metrics.gauge("followup_denylist_age_seconds", "Since the denylist was last read.", lambda: denylist.age_s)
    metrics.gauge("followup_audit_trail_up", "Whether the audit trail can be written.", lambda: float(trail.reachable))
    lag = SealLag(engine)
    metrics.gauge(
        "followup_audit_seal_lag_seconds", "How long the oldest record waits to be sealed.", lambda: lag.seconds
    )
    metrics.gauge(
        "followup_models_not_loaded", "Versions that are promoted and not loaded.", lambda: len(deployments.missing)
    )
    system = System(
        demo=settings.followup_mode == "demo",
        cors_origins=settings.cors_origins,
        engine=engine,
        verifier=Door(token_verifier(settings, token_keys), denylist, sessions),
        denylist=denylist,
        quotas=_quotas(settings, quota_redis, data_keys.digest("quotas").of),
        care_team=care_team,
        break_glass=BreakGlass(
            engine,
            data_keys,
            alarm=metrics.break_glass,
            changed=care_team.forget,
            digest=data_keys.digest("break-glass confirmations").of,
            ceiling=Ceiling(
                most_open=settings.break_glass_most_open,
                most_a_day=settings.break_glass_most_a_day,
                hard_stop=settings.break_glass_hard_stop,
            ),
        ),
        pipeline=pipeline,
        deployments=deployments,
        cache=cache,
        keys=data_keys,
        trail=trail,
        history=History(engine, data_keys),
        strangers=StrangerTally(trail, told=metrics.stranger_refused),
        metrics=metrics,
        seal_lag=lag,
        figures=Figures(engine),
        reports=Reports(),
    )
    return Runtime(
        system=system,
        token_keys=token_keys,
        sessions=sessions,
        quota_redis=quota_redis,
        keys=data_keys,
        signing_key=signing_key,
        external_models=settings.external_models,
        performance_log=performance_log,
        maintenance=Maintenance(engine),
        seal_lag=lag,
        executor=executor,
    )


def token_verifier(settings: Settings, keys: KeySource | None = None) -> TokenVerifier:
    """What turns tokens into principals."""
    return TokenVerifier(
        keys or _keys(settings),
        issuer=settings.cognito_issuer,
        client_ids=settings.cognito_client_ids,
        service_scope=settings.cognito_service_scope,
    )


def key_ring(settings: Settings) -> KeyRing:
    """The wrapping keys of the settings: KMS where it is set, else ENCRYPTION_KEY; older ones still open."""
    older = [LocalWrappingKey(root_key(key)) for key in settings.encryption_keys_old.get_secret_value().split()]
    local = settings.encryption_key.get_secret_value()
    if not settings.kms_key_id:
        return KeyRing(LocalWrappingKey(root_key(local)), older)
    if local:
        older.append(LocalWrappingKey(root_key(local)))
    return KeyRing(KmsWrappingKey(settings.kms_key_id, endpoint=settings.kms_endpoint or None), older)


def _runners(settings: Settings) -> Mapping[str, RunnerFactory]:
    threads = settings.onnx_intra_op_threads

    def ner(folder: Path, parameters: Mapping[str, Any]) -> NerRunner:
        return NerRunner(folder, parameters, intra_op_threads=threads)

    def deterioration(folder: Path, parameters: Mapping[str, Any]) -> DeteriorationRunner:
        return DeteriorationRunner(folder, parameters, intra_op_threads=threads)

    return {"clinical-ner": ner, "deterioration": deterioration}


def _limits(settings: Settings) -> Limits:
    return Limits(
        batch_items=settings.batch_max_items,
        batch_tokens=settings.batch_max_tokens,
        queue_items=settings.queue_max_items,
        queue_tokens=settings.queue_max_tokens,
        slots=min(settings.inference_threads, os.cpu_count() or 1),
    )


def _keys(settings: Settings) -> KeySource:
    if settings.cognito_jwks_file:
        return PinnedKeys(Path(settings.cognito_jwks_file))
    return FetchedKeys(settings.cognito_jwks_url or f"{settings.cognito_issuer}/.well-known/jwks.json")


def _quotas(settings: Settings, client: Redis | None, digest: Callable[[bytes], bytes]) -> Quotas:
    return Quotas(
        None if client is None else redis_counters(client),
        digest,
        per_minute=settings.quota_per_minute,
        anonymous_per_minute=settings.quota_anonymous_per_minute,
    )


def _cache(settings: Settings) -> ResultCache:
    client = _redis(settings)
    if client is None:
        return NoCache()
    return RedisCache(client, ttl_s=settings.cache_ttl_s, timeout_s=settings.cache_timeout_ms / 1000)


def _redis(settings: Settings) -> Redis | None:
    if not settings.redis_host and not settings.redis_socket:
        return None
    timeout_s = settings.cache_timeout_ms / 1000
    # redis-py's own retries would make one call to a frozen server last for seconds.
    common: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "password": settings.redis_password.get_secret_value() or None,
    }
    if settings.redis_socket:
        return Redis(unix_socket_path=settings.redis_socket, **common)
    if settings.redis_tls:
        common |= {"ssl": True, "ssl_ca_certs": settings.redis_ca_file or None}
    return Redis(host=settings.redis_host, port=settings.redis_port, **common)
