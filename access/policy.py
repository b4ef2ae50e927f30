"""The decision table: which role may do what. What is not in it is denied.

Relations between a clinician and a patient are not known here yet; until they are, a clinician reads only what they
asked for themselves. That is less than a care team may see, never more.
"""

from enum import StrEnum
from typing import Final

from access.principal import Principal, Role
from errors import Forbidden


class Action(StrEnum):
    """What a route does; each route declares exactly one."""

    PREDICT = "predict"
    READ_PREDICTIONS = "read predictions"
    READ_MODELS = "read models"
    READ_STATS = "read stats"
    READ_METRICS = "read metrics"
    READ_CONTRACT = "read contract"
    READ_AUDIT = "read audit"
    VERIFY_AUDIT = "verify audit"


_EVERYBODY: Final = frozenset(Role)
_ALLOWED: Final[dict[Action, frozenset[Role]]] = {
    Action.PREDICT: frozenset({Role.PATIENT, Role.CLINICIAN, Role.SERVICE}),
    Action.READ_PREDICTIONS: frozenset({Role.PATIENT, Role.CLINICIAN, Role.SERVICE, Role.AUDITOR}),
    Action.READ_MODELS: _EVERYBODY - {Role.PATIENT},
    Action.READ_STATS: _EVERYBODY - {Role.PATIENT},
    Action.READ_METRICS: frozenset({Role.ADMIN, Role.SERVICE}),
    Action.READ_CONTRACT: _EVERYBODY,
    Action.READ_AUDIT: frozenset({Role.PATIENT, Role.CLINICIAN, Role.AUDITOR}),  # each their own log, auditors all
    Action.VERIFY_AUDIT: frozenset({Role.AUDITOR}),
}


def allows(principal: Principal, action: Action) -> bool:
    return principal.has(*_ALLOWED.get(action, frozenset()))


def require(principal: Principal, action: Action) -> None:
    """Raises Forbidden unless one of the principal's roles may do this."""
    if not allows(principal, action):
        raise Forbidden("None of your roles allows this.")


def patient_of(principal: Principal, named: str | None) -> str | None:
    """Whom a prediction is about. A patient's own token always means that patient.

    Raises Forbidden when a patient names somebody else.
    """
    if principal.has(Role.CLINICIAN, Role.SERVICE):
        return named
    if named is not None and named != principal.subject:
        raise Forbidden("A patient's token is good for that patient alone.")
    return principal.subject
