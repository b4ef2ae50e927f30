"""What the trail will say of a request, filled in on its way: one event for each that leaves no prediction."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from api.tally import LIMITED
from audit.record import Caller, Event, new_id

ABANDONED = 499  # nginx's number for a client that went away before its answer


@dataclass(slots=True)
class Visit:
    """One request. Handlers say whom it is about; whatever they do not know stays empty."""

    caller: Caller
    action: str = "unknown"
    patients: Sequence[str] = ()
    target: str | None = None
    outcome: str | None = None
    detail: bytes | None = None
    recorded: bool = False  # its predictions are in the trail: nothing else is needed
    started: float = field(default_factory=time.perf_counter)

    def event(self, status: int) -> Event:
        """The event of this request, given the status of its answer."""
        return Event(
            id=new_id(),
            caller=self.caller,
            action=self.action,
            status=status,
            outcome=self.outcome if self.outcome is not None and status < 400 else _outcome(status),
            patients=tuple(sorted(set(self.patients))),
            target=self.target,
            latency_ms=(time.perf_counter() - self.started) * 1000,
            detail=self.detail if status < 400 else None,
        )

    def denial(self, patient_id: str | None) -> Event:
        """The event of a part of this request that its caller may not ask for."""
        return replace(self, patients=() if patient_id is None else (patient_id,)).event(HTTPStatus.FORBIDDEN)


def _outcome(status: int) -> str:
    if status < 400:
        return "success"
    if status == ABANDONED:
        return "abandoned"
    if status in {401, 403}:
        return "denied"
    if status == 429:
        return LIMITED
    return "refused" if status < 500 else "failed"
