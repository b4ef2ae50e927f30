"""The road of one prediction: admit, choose the version, look up, run, record, answer.

No answer leaves before its record is committed. The cache may be gone, the audit trail may not.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol
from uuid import UUID

import orjson

from access import policy
from access.principal import Principal
from audit.commitment import committed
from audit.data_keys import DataKeys, subject_of
from audit.history import FirstAnswers
from audit.record import BREAK_GLASS_PURPOSE, Caller, FirstAnswer, Record, new_id
from audit.trail import KeyTaken, Trail
from database.reading import bounded
from errors import AuditUnavailable, FollowupError, Forbidden, IdempotencyConflict, InternalFault, Overloaded
from inference.cache import CacheKeys, ResultCache
from inference.deployments import Deployment, Deployments
from inference.single_flight import SingleFlight

REPLAYED: Final = "replayed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRequest:
    """One thing to predict. `item_id` is the caller's own name for it inside a batch."""

    model_name: str
    input_data: Mapping[str, Any]
    patient_id: str | None = None
    use_cache: bool = True
    explain: bool = False
    item_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """The caller's Idempotency-Key and the body that came with it."""

    key: UUID
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One prediction, ready to be shown once it is recorded."""

    prediction_id: UUID
    deployment: Deployment
    result: dict[str, Any]
    confidence: float | None
    explanation: dict[str, Any] | None
    cache_hit: bool
    inference_time_ms: float
    item_id: str | None

    @property
    def recorded(self) -> dict[str, Any]:
        """The result as the trail keeps it: with the explanation, where one was given, and the rules it came by."""
        rules = self.deployment.runner.rules
        return {
            **self.result,
            **({} if self.explanation is None else {"explanation": self.explanation}),
            **({"rules": rules} if rules else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An item of a batch that could not be predicted."""

    item_id: str | None
    error: FollowupError


@dataclass(frozen=True, slots=True)
class Rendered:
    """What may leave now. `recorded`: the trail has predictions for all of it; if not, `outcome` says what it is."""

    body: bytes
    recorded: bool
    outcome: str | None = None


class Observer(Protocol):
    """Told of every prediction, so that somebody can count. Must be quick and must not raise."""

    def answered(self, model: str, version: str, latency_ms: float, *, cache_hit: bool) -> None: ...

    def failed(self, model: str, version: str, *, shed: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class _Computed:
    result: dict[str, Any]
    confidence: float | None
    inference_time_ms: float


class Pipeline:
    """Everything a prediction passes on its way; one per process."""

    def __init__(
        self,
        *,
        deployments: Deployments,
        cache: ResultCache,
        cache_keys: CacheKeys,
        keys: DataKeys,
        trail: Trail,
        first_answers: FirstAnswers,
        relations: policy.Relations,
        observer: Observer,
    ) -> None:
        self._deployments = deployments
        self._cache = cache
        self._cache_keys = cache_keys
        self._keys = keys
        self._trail = trail
        self._first_answers = first_answers
        self._relations = relations
        self._observer = observer
        self._flights: SingleFlight[_Computed] = SingleFlight()

    async def predict(
        self,
        principal: Principal,
        caller: Caller,
        request: PredictionRequest,
        show: Callable[[Answer], dict[str, Any]],
        idempotency: Idempotency | None = None,
    ) -> Rendered:
        """The answer as `show` has it, recorded, with the nonce that its record is committed to it by.

        Raises what the request deserves, from the tree in errors.py.
        """
        policy.require(principal, policy.Action.PREDICT)
        if idempotency is not None and (first := await self._replay(principal, caller, idempotency)) is not None:
            return first
        deployment = self._deployments.get(request.model_name)
        body, record = await self._answer(principal, caller, deployment, request, show, bulk=False)
        return await self._commit([record], body, caller, idempotency)

    async def predict_batch(
        self,
        principal: Principal,
        caller: Caller,
        requests: Sequence[PredictionRequest],
        *,
        show: Callable[[Answer], dict[str, Any]],
        render: Callable[[Deployment, Sequence[orjson.Fragment | Refusal]], bytes],
        deny: Callable[[Sequence[Refusal]], Awaitable[None]],
        idempotency: Idempotency | None = None,
    ) -> Rendered:
        """One answer or refusal for each request, in order.

        All requests name the same model and are answered by the same version of it; their records share one commit.
        Each answered item is committed to by itself. `deny` puts on record what the caller may not ask for, before
        anything is answered.
        """
        policy.require(principal, policy.Action.PREDICT)
        if idempotency is not None and (first := await self._replay(principal, caller, idempotency)) is not None:
            return first
        deployment = self._deployments.get(requests[0].model_name)
        attempts = (self._attempt(principal, caller, deployment, request, show) for request in requests)
        outcomes = await asyncio.gather(*attempts)
        if denied := [each for each in outcomes if isinstance(each, Refusal) and isinstance(each.error, Forbidden)]:
            await deny(denied)
        records: list[Record] = []
        shown: list[orjson.Fragment | Refusal] = []
        for outcome in outcomes:
            if isinstance(outcome, Refusal):
                shown.append(outcome)
                continue
            item, record = outcome
            shown.append(orjson.Fragment(item))
            records.append(record)
        rendered = await self._commit(records, render(deployment, shown), caller, idempotency)
        if rendered.recorded and len(records) < len(outcomes):
            return Rendered(rendered.body, recorded=False, outcome="partial" if records else "refused")
        return rendered

    async def _attempt(
        self,
        principal: Principal,
        caller: Caller,
        deployment: Deployment,
        request: PredictionRequest,
        show: Callable[[Answer], dict[str, Any]],
    ) -> tuple[bytes, Record] | Refusal:
        try:
            return await self._answer(principal, caller, deployment, request, show, bulk=True)
        except FollowupError as error:
            return Refusal(item_id=request.item_id, error=error)

    async def _answer(
        self,
        principal: Principal,
        caller: Caller,
        deployment: Deployment,
        request: PredictionRequest,
        show: Callable[[Answer], dict[str, Any]],
        *,
        bulk: bool,
    ) -> tuple[bytes, Record]:
        """The answer as it leaves, and its record, which is committed to it."""
        started = time.perf_counter()
        patient_id, relation = await policy.patient_of(principal, request.patient_id, self._relations)
        if relation is policy.Relation.BREAK_GLASS:
            caller = replace(caller, purpose_of_use=BREAK_GLASS_PURPOSE)
        identity = deployment.identity
        item = deployment.runner.parse(request.input_data)
        try:
            subject = subject_of(patient_id, principal.subject)
            computed, cache_hit = await self._result(deployment, item, subject, use_cache=request.use_cache, bulk=bulk)
            explanation = await self._explanation(deployment, item) if request.explain else None
        except (Overloaded, InternalFault) as error:
            self._observer.failed(identity.name, identity.version, shed=isinstance(error, Overloaded))
            raise
        latency_ms = (time.perf_counter() - started) * 1000
        answer = Answer(
            prediction_id=new_id(),
            deployment=deployment,
            result=computed.result,
            confidence=computed.confidence,
            explanation=explanation,
            cache_hit=cache_hit,
            inference_time_ms=latency_ms if cache_hit else computed.inference_time_ms,
            item_id=request.item_id,
        )
        body, commitment = committed(show(answer))
        record = Record(
            id=answer.prediction_id,
            caller=caller,
            model=identity,
            patient_id=patient_id,
            input_json=orjson.dumps(request.input_data),
            result_json=orjson.dumps(answer.recorded),
            confidence=answer.confidence,
            cache_hit=cache_hit,
            inference_time_ms=answer.inference_time_ms,
            latency_ms=latency_ms,
            answer_commitment=commitment,
        )
        return body, record

    async def _result(
        self, deployment: Deployment, item: Any, subject: str, *, use_cache: bool, bulk: bool
    ) -> tuple[_Computed, bool]:
        """The result, and whether it was computed for the same subject before."""
        if not (use_cache and deployment.manifest.cacheable):
            return await self._compute(deployment, item, bulk=bulk), False
        data_key = self._keys.known(subject) or await self._keys.current(subject)
        key = self._cache_keys.key(
            subject=subject,
            model=deployment.identity.name,
            model_digest=deployment.identity.digest,
            preprocessing=f"{deployment.manifest.preprocessing_version}|{deployment.runner.rules}",
            canonical_input=deployment.runner.canonical(item),
        )
        if (stored := await self._cache.get(key, data_key)) is not None:
            known = orjson.loads(stored)
            return _Computed(known["result"], known["confidence"], 0.0), True

        async def compute_and_store() -> _Computed:
            computed = await self._compute(deployment, item, bulk=bulk)
            value = {"result": computed.result, "confidence": computed.confidence}
            self._cache.put(key, orjson.dumps(value), data_key)
            return computed

        return await self._flights.do(key, compute_and_store)

    async def _explanation(self, deployment: Deployment, item: Any) -> dict[str, Any]:
        inferred = await deployment.explainer.infer(item, bulk=True)
        return inferred.prediction.result

    async def _compute(self, deployment: Deployment, item: Any, *, bulk: bool) -> _Computed:
        inferred = await deployment.batcher.infer(item, bulk=bulk)
        return _Computed(inferred.prediction.result, inferred.prediction.confidence, inferred.inference_time_ms)

    async def _commit(
        self, records: Sequence[Record], body: bytes, caller: Caller, idempotency: Idempotency | None
    ) -> Rendered:
        """The body, once everything in it is recorded. Only then is it counted as answered."""
        try:
            shown = await self._record(records, body, caller, idempotency)
        except FollowupError:
            for record in records:
                self._observer.failed(record.model.name, record.model.version, shed=False)
            raise
        for record in records:
            model = record.model
            self._observer.answered(model.name, model.version, record.latency_ms, cache_hit=record.cache_hit)
        return shown

    async def _record(
        self, records: Sequence[Record], body: bytes, caller: Caller, idempotency: Idempotency | None
    ) -> Rendered:
        if idempotency is None:
            if records:
                await self._trail.record(records)
            return Rendered(body, recorded=True)
        mac = self._first_answers.request_mac(caller.route, idempotency.body)
        answer = FirstAnswer(
            principal=caller.principal,
            key=idempotency.key,
            request_mac=mac,
            answer=body,
            patients=tuple({record.patient_id for record in records if record.patient_id is not None}),
        )
        try:
            await self._trail.record(records, answer)
        except KeyTaken as taken:
            first = await self._first_answer(caller, idempotency)
            if first is None:
                raise InternalFault("The first answer under this key is gone.") from taken
            return _replayed(first[0])
        return Rendered(body, recorded=True)

    async def _replay(self, principal: Principal, caller: Caller, idempotency: Idempotency) -> Rendered | None:
        """What was answered under this key before. Raises Forbidden when the caller may not see it any more."""
        first = await self._first_answer(caller, idempotency)
        if first is None:
            return None
        answer, patients = first
        for patient in patients:
            await policy.patient_of(principal, patient, self._relations)
        return _replayed(answer)

    async def _first_answer(self, caller: Caller, idempotency: Idempotency) -> tuple[bytes, Sequence[str]] | None:
        if not self._trail.reachable:
            raise AuditUnavailable("The audit database cannot be reached.")
        found = await bounded(self._first_answers.find(caller.principal, idempotency.key))
        if found is None:
            return None
        mac, answer, patients = found
        if mac != self._first_answers.request_mac(caller.route, idempotency.body):
            raise IdempotencyConflict("Use a new key for a new request.")
        return answer, patients


def _replayed(body: bytes) -> Rendered:
    """An answer that was given before: its prediction is on record, that it was given again is not yet."""
    return Rendered(body, recorded=False, outcome=REPLAYED)
