"""Which fields of a record each role is shown (45 CFR 164.502(b), minimum necessary). What is not listed is not."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from access.policy import Relation
from access.principal import Principal, Role

_WHAT_HAPPENED: Final = frozenset(
    {
        "prediction_id",
        "created_at",
        "model",
        "patient_id",
        "principal",
        "roles",
        "purpose_of_use",
        "route",
        "request_id",
        "cache_hit",
        "inference_time_ms",
        "latency_ms",
        "erased",
        "unreadable",
    }
)
CONTENT: Final = frozenset({"input_data", "result", "confidence", "amendments"})
ORIGIN: Final = frozenset({"ip_address", "user_agent"})

# Who looked is part of what happened: a patient may know it, with which machine is somebody else's affair.
FIELDS: Final[Mapping[Role, frozenset[str]]] = {
    Role.PATIENT: _WHAT_HAPPENED | CONTENT,
    Role.CLINICIAN: _WHAT_HAPPENED | CONTENT,
    Role.AUDITOR: _WHAT_HAPPENED | ORIGIN,
}
_RELATED: Final[Mapping[Role, frozenset[Relation]]] = {
    Role.PATIENT: frozenset({Relation.OWN}),
    Role.CLINICIAN: frozenset({Relation.CARE_TEAM, Relation.BREAK_GLASS}),
    Role.AUDITOR: frozenset(Relation),
}


def visible_fields(principal: Principal, *, relation: Relation, wrote: bool) -> frozenset[str]:
    """The fields of one record that a reader is shown; roles add up. None at all: the reader may not know of it.

    `relation` is how the reader stands to the record's patient, `wrote` whether they asked for it themselves: authors
    see where they asked from, and the content of what is about nobody in particular.
    """
    shown: set[str] = set()
    for role, fields in FIELDS.items():
        if not principal.has(role):
            continue
        if relation in _RELATED[role]:
            shown |= fields
        if wrote and role is not Role.AUDITOR and (relation is Relation.NOBODY or relation in _RELATED[role]):
            shown |= fields | ORIGIN
    return frozenset(shown)


def project(record: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """The record without what is not to be shown."""
    return {name: value for name, value in record.items() if name in fields}
