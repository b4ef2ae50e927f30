"""The service with a trail that keeps nothing, to see what the real one costs: for benchmarks/audit_cost.py alone."""

from collections.abc import Sequence
from typing import Any

import service
from audit.record import Event, FirstAnswer, Record
from bootstrap import Runtime, bootstrap
from settings import Settings


class NullTrail:
    """Takes everything, writes nothing."""

    reachable = True

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    async def record(self, records: Sequence[Record], first_answer: FirstAnswer | None = None) -> None:
        return

    async def event(self, event: Event) -> None:
        return


def _without_a_trail(settings: Settings) -> Runtime:
    trail: Any = NullTrail()
    return bootstrap(settings, trail=trail)


service.bootstrap = _without_a_trail
FollowupML = service.FollowupML
