"""What the HTTP floor needs of the rooms below, built once by bootstrap."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy.ext.asyncio import AsyncEngine

from access.break_glass import BreakGlass
from access.care_team import CareTeam
from access.denylist import Denylist
from access.door import Door
from access.quotas import Quotas
from api.tally import StrangerTally
from audit.data_keys import DataKeys
from audit.history import History
from audit.trail import Trail
from inference.cache import ResultCache
from inference.deployments import Deployments
from inference.pipeline import Pipeline
from monitoring.figures import Figures
from monitoring.metrics import Metrics
from monitoring.seal_lag import SealLag
from registry.reports import Reports


class Readiness(StrEnum):
    """What a load balancer must know, and one word for whoever looks after the server."""

    READY = "ready"
    DEGRADED = "degraded"  # answers and records, but somebody should look at it
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The parts that routes use."""

    demo: bool
    cors_origins: Sequence[str]
    engine: AsyncEngine
    verifier: Door
    denylist: Denylist
    quotas: Quotas
    care_team: CareTeam
    break_glass: BreakGlass
    pipeline: Pipeline
    deployments: Deployments
    cache: ResultCache
    keys: DataKeys
    trail: Trail
    history: History
    strangers: StrangerTally
    metrics: Metrics
    seal_lag: SealLag
    figures: Figures
    reports: Reports

    @property
    def readiness(self) -> Readiness:
        """Unavailable only where no prediction can be recorded or no model answers."""
        if not self.deployments.active or not self.trail.reachable:
            return Readiness.UNAVAILABLE
        if self.deployments.missing or self.seal_lag.late:
            return Readiness.DEGRADED
        return Readiness.READY
