"""The decision table, cell by cell. EXPECTED is written out from the requirements, not derived from the code."""

import pytest

from access.policy import Action, Relation, allows, patient_of, relation_of, require
from access.principal import Principal, Role
from api.routes import TABLE
from errors import Forbidden, Unavailable

ROLES = ("patient", "clinician", "ml-engineer", "approver", "auditor", "admin", "service")
RELATIONS = ("own", "care team", "break-glass", "other", "nobody")

# About patients: a line for each action and relation, a column for each role, in the order of ROLES.
PATIENTS = """
predict          | own         | y - - - - - y
predict          | care team   | - y - - - - y
predict          | break-glass | - y - - - - y
predict          | other       | - - - - - - y
predict          | nobody      | - y - - - - y
read predictions | own         | y - - - y - -
read predictions | care team   | - y - - y - -
read predictions | break-glass | - y - - y - -
read predictions | other       | - - - - y - -
read predictions | nobody      | - y - - y - -
amend            | own         | y - - - - - -
amend            | care team   | - y - - - - -
amend            | break-glass | - y - - - - -
amend            | other       | - - - - - - -
amend            | nobody      | - y - - - - -
break glass      | own         | - y - - - - -
break glass      | care team   | - y - - - - -
break glass      | break-glass | - y - - - - -
break glass      | other       | - y - - - - -
break glass      | nobody      | - - - - - - -
read audit       | own         | y y - - y - -
read audit       | care team   | - - - - y - -
read audit       | break-glass | - - - - y - -
read audit       | other       | - - - - y - -
read audit       | nobody      | - - - - y y -
"""
# About no patient: whatever the relation, the answer is the same.
THINGS = """
read break-glass          | - y - - y y -
review break-glass        | - - - - y y -
read models               | - y y y y y -
register models           | - - y - - - -
approve models            | - - - y - - -
promote models            | - - - y - - -
verify audit              | - - - - y - -
export audit              | - - - - y - -
configure                 | - - - - - y -
read stats                | - y y y y y -
read metrics              | - - - - - y y
read contract             | y y y y y y y
"""


def expected() -> dict[tuple[str, str, str], bool]:
    cells = {}
    for line in PATIENTS.strip().splitlines():
        action, relation, marks = (part.strip() for part in line.split("|"))
        for role, mark in zip(ROLES, marks.split(), strict=True):
            cells[role, action, relation] = mark == "y"
    for line in THINGS.strip().splitlines():
        action, marks = (part.strip() for part in line.split("|"))
        for role, mark in zip(ROLES, marks.split(), strict=True):
            cells |= {(role, action, relation): mark == "y" for relation in RELATIONS}
    return cells


EXPECTED = expected()


class Known:
    """Relations from a dictionary."""

    def __init__(self, *treats: str, broken: tuple[str, ...] = ()) -> None:
        self._treats, self._broken = treats, broken

    async def relation(self, clinician: str, patient_id: str) -> Relation:
        if patient_id in self._treats:
            return Relation.CARE_TEAM
        return Relation.BREAK_GLASS if patient_id in self._broken else Relation.OTHER


class Unknown:
    """A database that does not answer."""

    async def relation(self, clinician: str, patient_id: str) -> Relation:
        raise Unavailable("The database does not answer.")


def principal(*roles: Role, subject: str = "me") -> Principal:
    return Principal(subject, frozenset(roles), "client", 0, "token")


def test_the_matrix_has_every_cell() -> None:
    assert set(EXPECTED) == {(r, a, x) for r in Role for a in Action for x in Relation}


@pytest.mark.parametrize("cell", EXPECTED, ids=" | ".join)
def test_each_cell_of_the_matrix(cell: tuple[str, str, str]) -> None:
    role, action, relation = cell
    assert allows(principal(Role(role)), Action(action), Relation(relation)) is EXPECTED[cell]


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("role", Role)
def test_a_route_is_open_to_a_role_that_may_do_it_to_somebody(role: Role, action: Action) -> None:
    to_anybody = any(EXPECTED[role, action, relation] for relation in RELATIONS)
    assert allows(principal(role), action) is to_anybody


@pytest.mark.parametrize("action", Action)
def test_without_a_role_nothing_is_allowed(action: Action) -> None:
    for relation in (None, *Relation):
        with pytest.raises(Forbidden):
            require(principal(), action, relation)


def test_roles_add_up_and_never_take_away() -> None:
    both = principal(Role.PATIENT, Role.CLINICIAN)
    assert allows(both, Action.PREDICT, Relation.OWN)
    assert allows(both, Action.PREDICT, Relation.CARE_TEAM)
    assert not allows(both, Action.PREDICT, Relation.OTHER)


def test_every_route_declares_an_action_of_the_table() -> None:
    for route in TABLE.routes:
        assert isinstance(route.action, Action)
        assert any(allows(principal(role), route.action) for role in Role), "a route that nobody may call"


def test_what_is_not_in_the_table_is_denied() -> None:
    everybody = principal(*Role)
    assert not allows(everybody, "an action that nobody wrote down")  # type: ignore[arg-type]
    assert not allows(everybody, "an action that nobody wrote down", Relation.OWN)  # type: ignore[arg-type]


async def test_a_patients_token_means_that_patient() -> None:
    assert (await patient_of(principal(Role.PATIENT), None, Known()))[0] == "me"
    assert (await patient_of(principal(Role.PATIENT), "me", Known()))[0] == "me"
    with pytest.raises(Forbidden):
        await patient_of(principal(Role.PATIENT), "somebody else", Known("somebody else"))


async def test_a_clinician_names_a_patient_of_the_care_team_or_breaks_the_glass() -> None:
    clinician = principal(Role.CLINICIAN)
    known = Known("p-1", broken=("p-2",))
    assert (await patient_of(clinician, None, known))[0] is None
    assert (await patient_of(clinician, "p-1", known))[0] == "p-1"
    assert (await patient_of(clinician, "p-2", known))[0] == "p-2"
    for other in ("p-3", "me"):
        with pytest.raises(Forbidden):
            await patient_of(clinician, other, known)


async def test_a_clinician_who_is_a_patient_too_may_name_themselves() -> None:
    both = principal(Role.PATIENT, Role.CLINICIAN)
    assert (await patient_of(both, "me", Known()))[0] == "me"
    assert (await patient_of(both, None, Known()))[0] is None
    with pytest.raises(Forbidden):
        await patient_of(both, "p-1", Known())


async def test_a_service_names_whom_it_wants() -> None:
    assert (await patient_of(principal(Role.SERVICE), "p-1", Unknown()))[0] == "p-1"
    assert (await patient_of(principal(Role.SERVICE), None, Unknown()))[0] is None


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.ADMIN, Role.ML_ENGINEER, Role.APPROVER])
async def test_nobody_else_predicts(role: Role) -> None:
    for named in (None, "me", "p-1"):
        with pytest.raises(Forbidden):
            await patient_of(principal(role), named, Known("p-1", "me"))


async def test_a_relation_that_cannot_be_known_is_none() -> None:
    with pytest.raises(Unavailable):
        await patient_of(principal(Role.CLINICIAN), "p-1", Unknown())
    assert await relation_of(principal(Role.CLINICIAN), None, Unknown()) is Relation.NOBODY
