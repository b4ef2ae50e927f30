"""The decision table: which role may do what, and to whom it stands in which relation. What is not in it is denied."""

from enum import StrEnum
from typing import Final, Protocol

from access.principal import Principal, Role
from errors import Forbidden


class Action(StrEnum):
    """What a route does; each route declares exactly one."""

    PREDICT = "predict"
    READ_PREDICTIONS = "read predictions"
    AMEND = "amend"
    BREAK_GLASS = "break glass"
    READ_BREAK_GLASS = "read break-glass"
    REVIEW_BREAK_GLASS = "review break-glass"
    READ_MODELS = "read models"
    REGISTER_MODELS = "register models"
    APPROVE_MODELS = "approve models"
    PROMOTE_MODELS = "promote models"
    READ_AUDIT = "read audit"
    VERIFY_AUDIT = "verify audit"
    EXPORT_AUDIT = "export audit"
    CONFIGURE = "configure"
    READ_STATS = "read stats"
    READ_METRICS = "read metrics"
    READ_CONTRACT = "read contract"


class Relation(StrEnum):
    """How the person who asks stands to the person it is about."""

    OWN = "own"
    CARE_TEAM = "care team"
    BREAK_GLASS = "break-glass"
    OTHER = "other"
    NOBODY = "nobody"  # about no patient in particular


_TREATS: Final = frozenset({Relation.CARE_TEAM, Relation.BREAK_GLASS, Relation.NOBODY})
_PATIENTS: Final[dict[Action, dict[Role, frozenset[Relation]]]] = {
    Action.PREDICT: {
        Role.PATIENT: frozenset({Relation.OWN}),
        Role.CLINICIAN: _TREATS,
        Role.SERVICE: frozenset(Relation),
    },
    # The contents. An auditor sees that there are records of anybody, and not what is in them: access/fields.py.
    Action.READ_PREDICTIONS: {
        Role.PATIENT: frozenset({Relation.OWN}),
        Role.CLINICIAN: _TREATS,
        Role.AUDITOR: frozenset(Relation),
    },
    Action.AMEND: {Role.PATIENT: frozenset({Relation.OWN}), Role.CLINICIAN: _TREATS},
    Action.BREAK_GLASS: {Role.CLINICIAN: frozenset(Relation) - {Relation.NOBODY}},
    # Patients what happened to their records, clinicians what they did, administrators what was configured.
    Action.READ_AUDIT: {
        Role.PATIENT: frozenset({Relation.OWN}),
        Role.CLINICIAN: frozenset({Relation.OWN}),
        Role.ADMIN: frozenset({Relation.NOBODY}),
        Role.AUDITOR: frozenset(Relation),
    },
}

_PEOPLE: Final = frozenset(Role) - {Role.SERVICE}
_THINGS: Final[dict[Action, frozenset[Role]]] = {
    Action.READ_BREAK_GLASS: frozenset({Role.CLINICIAN, Role.AUDITOR, Role.ADMIN}),
    Action.REVIEW_BREAK_GLASS: frozenset({Role.AUDITOR, Role.ADMIN}),
    Action.READ_MODELS: _PEOPLE - {Role.PATIENT},
    Action.REGISTER_MODELS: frozenset({Role.ML_ENGINEER}),
    Action.APPROVE_MODELS: frozenset({Role.APPROVER}),
    Action.PROMOTE_MODELS: frozenset({Role.APPROVER}),
    Action.VERIFY_AUDIT: frozenset({Role.AUDITOR}),
    Action.EXPORT_AUDIT: frozenset({Role.AUDITOR}),
    Action.CONFIGURE: frozenset({Role.ADMIN}),
    Action.READ_STATS: _PEOPLE - {Role.PATIENT},
    Action.READ_METRICS: frozenset({Role.ADMIN, Role.SERVICE}),
    Action.READ_CONTRACT: frozenset(Role),
}


class Relations(Protocol):
    """Who cares for whom."""

    async def relation(self, clinician: str, patient_id: str) -> Relation:
        """CARE_TEAM, BREAK_GLASS or OTHER. Raises Unavailable when it cannot be known."""
        ...


def allows(principal: Principal, action: Action, relation: Relation | None = None) -> bool:
    """Whether one of the principal's roles may do this to whom it stands in this relation.

    Without a relation: whether there is anybody to whom it may.
    """
    if action in _THINGS:
        return principal.has(*_THINGS[action])
    by_role = _PATIENTS.get(action, {})
    if relation is None:
        return principal.has(*by_role)
    return any(relation in by_role.get(role, ()) for role in principal.roles)


def require(principal: Principal, action: Action, relation: Relation | None = None) -> None:
    """Raises Forbidden unless one of the principal's roles may do this."""
    if not allows(principal, action, relation):
        raise Forbidden("None of your roles allows this.")


async def relation_of(principal: Principal, patient_id: str | None, relations: Relations) -> Relation:
    """How the principal stands to a patient. The table is asked only for clinicians who name somebody else."""
    if patient_id is None:
        return Relation.NOBODY
    if principal.has(Role.PATIENT) and patient_id == principal.subject:
        return Relation.OWN
    if principal.has(Role.CLINICIAN):
        return await relations.relation(principal.subject, patient_id)
    return Relation.OTHER


async def patient_of(principal: Principal, named: str | None, relations: Relations) -> tuple[str | None, Relation]:
    """Whom a prediction is about: a patient who names nobody means themselves, anybody else nobody in particular.

    Raises Forbidden for somebody the principal stands in no relation to.
    """
    if named is None and not principal.has(Role.CLINICIAN, Role.SERVICE):
        named = principal.subject
    relation = await relation_of(principal, named, relations)
    if not allows(principal, Action.PREDICT, relation):
        raise Forbidden("None of your roles allows this for that patient.")
    return named, relation
