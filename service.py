"""The Bento: one service class that wires the system to BentoML and does no work of its own.

bentoml serve service:FollowupML      needs the settings of docs/settings.md
followup up                           sets up everything for a demo first
"""

import logging
import os
import sys

import bentoml
from starlette.responses import Response

from api.gate import Gate
from api.problems import as_followup_error, problem_response
from api.routes import TABLE
from api.routes.predict import BATCH, DETERIORATION, PREDICT, SYMPTOM_ANALYSIS
from api.routing import Route
from api.schemas import (
    BatchRequest,
    BatchResponse,
    DeteriorationRequest,
    DeteriorationResponse,
    PredictRequest,
    PredictResponse,
    SymptomAnalysisRequest,
    SymptomAnalysisResponse,
)
from api.system import Readiness, System
from bootstrap import bootstrap
from serving.connections import ConnectionLimits, below_the_file_limit, is_loopback, is_trusted
from serving.exposure import refuse_other_listeners
from serving.protocol import GuardedProtocol, guard
from serving.supervisor import replace_process_manager
from serving.worker import Start
from settings import load_settings

replace_process_manager()  # `bentoml serve` imports this module before it would start its own

# uvicorn believes X-Forwarded-For from any process of this machine unless told otherwise.
os.environ["FORWARDED_ALLOW_IPS"] = os.environ.get("TRUSTED_PROXIES", "")


def _connection_limits() -> ConnectionLimits:
    settings = load_settings()
    trusted = is_trusted(settings.trusted_proxies)
    in_demo = settings.followup_mode == "demo"
    return ConnectionLimits(
        in_all=below_the_file_limit(settings.connections_in_all),
        by_address=settings.connections_by_address,
        exempt=lambda address: trusted(address) or (in_demo and is_loopback(address)),
    )


guard(_connection_limits)


@bentoml.service(
    name="followup_ml",
    workers=1,  # the batcher gathers best when all requests pass one process; scale by replicas
    traffic={"timeout": 60},
    # BentoML's own access log, traces and metrics label by raw path and cost more than a prediction: ours are in api/
    # and monitoring/.
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    tracing={"excluded_urls": ".*"},
)
class FollowupML:
    """Self-hosted, audited predictions for wellness monitoring."""

    def __init__(self) -> None:
        self.starting = Start.of_this_process()
        with self.starting.told():
            refuse_other_listeners(sys.argv)
            settings = load_settings()
            _configure_logging(settings.log_level)
            self.runtime = bootstrap(settings)
            gauge = self.system.metrics.gauge
            gauge("followup_connections", "Connections that are open.", lambda: len(GuardedProtocol.table.connections))
            gauge(
                "followup_connections_refused",
                "Connections that were refused, evicted or cut off since the start.",
                GuardedProtocol.table.connections.refused.total,
            )

    @property
    def system(self) -> System:
        return self.runtime.system

    @bentoml.on_startup
    async def start(self) -> None:
        with self.starting.told():
            await self.runtime.open()
        self.starting.ready()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        await self.runtime.close()

    async def __is_ready__(self) -> bool:
        return self.system.readiness is not Readiness.UNAVAILABLE

    @bentoml.api(route=PREDICT.path)
    async def predict(self, body: PredictRequest, /, ctx: bentoml.Context) -> PredictResponse:
        """Any model by name."""
        return await self._answer(PREDICT, ctx)  # type: ignore[return-value]

    @bentoml.api(route=SYMPTOM_ANALYSIS.path)
    async def symptom_analysis(self, body: SymptomAnalysisRequest, /, ctx: bentoml.Context) -> SymptomAnalysisResponse:
        """Symptoms, medications and conditions in a note."""
        return await self._answer(SYMPTOM_ANALYSIS, ctx)  # type: ignore[return-value]

    @bentoml.api(route=DETERIORATION.path)
    async def deterioration(self, body: DeteriorationRequest, /, ctx: bentoml.Context) -> DeteriorationResponse:
        """A week of home measurements against the person's own baseline."""
        return await self._answer(DETERIORATION, ctx)  # type: ignore[return-value]

    @bentoml.api(route=BATCH.path)
    async def predict_batch(self, body: BatchRequest, /, ctx: bentoml.Context) -> BatchResponse:
        """Up to 64 items of one model."""
        return await self._answer(BATCH, ctx)  # type: ignore[return-value]

    async def _answer(self, route: Route, ctx: bentoml.Context) -> Response:
        """A rendered response: BentoML passes it on as it is, status and all."""
        admitted = ctx.request.scope["state"]["admitted"]
        assert route.handler is not None
        try:
            response = await route.handler(self.system, admitted)
        except Exception as error:  # BentoML would answer in words of its own and log the request
            shown = as_followup_error(error, route=route.path, request_id=admitted.request_id)
            response = problem_response(shown, admitted.request_id)
        ctx.response.status_code = response.status_code
        return response


def _configure_logging(level: str) -> None:
    """Ours from `level`, libraries from WARNING: below that some of them log what they are given."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s [%(levelname)s] [%(name)s] %(message)s")
    for room in ("access", "api", "audit", "database", "inference", "monitoring", "registry", "runners", "serving"):
        logging.getLogger(room).setLevel(level)


def _system() -> System:
    system: System = bentoml.get_current_service().system
    return system


FollowupML.add_asgi_middleware(Gate, table=TABLE, system=_system)
