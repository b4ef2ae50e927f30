"""What the HTTP floor needs of the rooms below, built once by bootstrap."""

from collections.abc import Sequence
from dataclasses import dataclass

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
from monitoring.metrics import Metrics


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

    @property
    def ready(self) -> bool:
        """Whether predictions can be answered now: models loaded and warm, audit trail writable."""
        return bool(self.deployments.active) and self.trail.reachable
