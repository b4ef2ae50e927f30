"""The decision table, cell by cell."""

import pytest

from access.policy import Action, allows, patient_of, require
from access.principal import Principal, Role
from errors import Forbidden

ALLOWED = {
    Role.PATIENT: {Action.PREDICT, Action.READ_PREDICTIONS, Action.READ_CONTRACT, Action.READ_AUDIT},
    Role.CLINICIAN: {
        Action.PREDICT,
        Action.READ_PREDICTIONS,
        Action.READ_MODELS,
        Action.READ_STATS,
        Action.READ_CONTRACT,
        Action.READ_AUDIT,
    },
    Role.ML_ENGINEER: {Action.READ_MODELS, Action.READ_STATS, Action.READ_CONTRACT},
    Role.APPROVER: {Action.READ_MODELS, Action.READ_STATS, Action.READ_CONTRACT},
    Role.AUDITOR: {
        Action.READ_PREDICTIONS,
        Action.READ_MODELS,
        Action.READ_STATS,
        Action.READ_CONTRACT,
        Action.READ_AUDIT,
        Action.VERIFY_AUDIT,
    },
    Role.ADMIN: {Action.READ_MODELS, Action.READ_STATS, Action.READ_METRICS, Action.READ_CONTRACT},
    Role.SERVICE: set(Action) - {Action.READ_AUDIT, Action.VERIFY_AUDIT},
}


def principal(*roles: Role, subject: str = "me") -> Principal:
    return Principal(subject, frozenset(roles), "client", 0, "token")


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("role", Role)
def test_each_cell_of_the_table(role: Role, action: Action) -> None:
    assert allows(principal(role), action) is (action in ALLOWED[role])


@pytest.mark.parametrize("action", Action)
def test_without_a_role_nothing_is_allowed(action: Action) -> None:
    with pytest.raises(Forbidden):
        require(principal(), action)


def test_a_patients_token_means_that_patient() -> None:
    assert patient_of(principal(Role.PATIENT), None) == "me"
    assert patient_of(principal(Role.PATIENT), "me") == "me"
    with pytest.raises(Forbidden):
        patient_of(principal(Role.PATIENT), "somebody else")


def test_without_a_named_patient_a_clinicians_record_stays_unlinked() -> None:
    assert patient_of(principal(Role.CLINICIAN), None) is None
    assert patient_of(principal(Role.CLINICIAN), "p-1") == "p-1"
