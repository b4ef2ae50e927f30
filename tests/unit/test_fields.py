"""Minimum necessary: what each role is shown of one record."""

import pytest

from access.fields import project, visible_fields
from access.policy import Relation
from access.principal import Principal, Role

RECORD = {
    "prediction_id": "0190",
    "created_at": "2026-01-01T00:00:00Z",
    "model": {"name": "m"},
    "patient_id": "p-1",
    "principal": "somebody",
    "roles": ["clinician"],
    "purpose_of_use": "CAREMGT",
    "route": "/predict",
    "request_id": "r",
    "ip_address": "192.0.2.1",
    "user_agent": "browser",
    "confidence": 0.5,
    "cache_hit": False,
    "inference_time_ms": 1.0,
    "latency_ms": 2.0,
    "erased": False,
    "unreadable": True,
    "input_data": {"text": "fever"},
    "result": {"entities": {}},
    "a field of the future": 1,
}
WHAT_HAPPENED = [
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
]
CONTENT = ["confidence", "input_data", "result"]
ORIGIN = ["ip_address", "user_agent"]


def shown(*roles: Role, relation: Relation, wrote: bool = False) -> list[str]:
    principal = Principal("me", frozenset(roles), "client", 0, "token")
    return sorted(project(RECORD, visible_fields(principal, relation=relation, wrote=wrote)))


@pytest.mark.requirement("S11")
def test_a_patient_sees_content_and_who_looked_but_not_from_where() -> None:
    assert shown(Role.PATIENT, relation=Relation.OWN) == sorted(WHAT_HAPPENED + CONTENT)
    assert shown(Role.PATIENT, relation=Relation.OWN, wrote=True) == sorted(WHAT_HAPPENED + CONTENT + ORIGIN)
    assert shown(Role.PATIENT, relation=Relation.OTHER) == []
    assert shown(Role.PATIENT, relation=Relation.OTHER, wrote=True) == []


@pytest.mark.parametrize("relation", [Relation.CARE_TEAM, Relation.BREAK_GLASS])
@pytest.mark.requirement("S11")
def test_a_clinician_sees_content_of_related_patients_but_not_from_where(relation: Relation) -> None:
    assert shown(Role.CLINICIAN, relation=relation) == sorted(WHAT_HAPPENED + CONTENT)
    assert shown(Role.CLINICIAN, relation=relation, wrote=True) == sorted(WHAT_HAPPENED + CONTENT + ORIGIN)


@pytest.mark.requirement("S11")
def test_a_clinician_sees_nothing_of_others_even_what_they_asked_for_when_related() -> None:
    assert shown(Role.CLINICIAN, relation=Relation.OTHER) == []
    assert shown(Role.CLINICIAN, relation=Relation.OTHER, wrote=True) == []
    assert shown(Role.CLINICIAN, relation=Relation.NOBODY) == []
    assert shown(Role.CLINICIAN, relation=Relation.NOBODY, wrote=True) == sorted(WHAT_HAPPENED + CONTENT + ORIGIN)


@pytest.mark.parametrize("relation", Relation)
@pytest.mark.requirement("S11")
def test_an_auditor_sees_everything_but_content(relation: Relation) -> None:
    assert shown(Role.AUDITOR, relation=relation) == sorted(WHAT_HAPPENED + ORIGIN)


@pytest.mark.parametrize("role", [Role.ML_ENGINEER, Role.APPROVER, Role.ADMIN, Role.SERVICE])
@pytest.mark.parametrize("relation", Relation)
def test_nobody_else_sees_anything(role: Role, relation: Relation) -> None:
    for wrote in (False, True):
        assert shown(role, relation=relation, wrote=wrote) == []


def test_roles_add_up() -> None:
    both = shown(Role.CLINICIAN, Role.AUDITOR, relation=Relation.CARE_TEAM)
    assert both == sorted(WHAT_HAPPENED + CONTENT + ORIGIN)
