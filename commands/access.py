"""`followup access …`: who cares for whom, and who is let in no more. Each act is on record under an administrator."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from commands.shared import Json, console, explained, plain
from errors import SetupError

if TYPE_CHECKING:
    from access.denylist import Kind
    from access.recording import Event

app = typer.Typer(help="Care teams and revocations; needs an administrator's token.", no_args_is_help=True)
Clinician = Annotated[str, typer.Argument(help="Cognito sub of the clinician.")]
Patient = Annotated[str, typer.Argument(help="Cognito sub of the patient.")]
Sub = Annotated[str | None, typer.Option(help="A person or service: the token's sub.")]
Login = Annotated[
    str | None, typer.Option(help="A login and all its tokens: origin_jti, or SUB@AUTH_TIME where tokens have none.")
]
Jti = Annotated[str | None, typer.Option(help="One token: jti.")]
_LONGEST = 128


@app.command()
@explained
def grant(
    clinician: Clinician,
    patient: Patient,
    days: Annotated[int | None, typer.Option(min=1, max=3660, help="For how long; default: until withdrawn.")] = None,
) -> None:
    """Put a clinician on a patient's care team; servers follow within seconds."""
    from access.care_team import granted

    who, whom = _named(clinician), _named(patient)
    (row,) = _change(lambda by, event: granted(who, whom, by=by, days=days, event=event), "grant care team")
    until = row["until"]
    console.print(f"On the care team {'until ' + until.isoformat() if until else 'until withdrawn'}", highlight=False)


@app.command()
@explained
def withdraw(clinician: Clinician, patient: Patient) -> None:
    """Take a clinician off a patient's care team; servers follow within seconds."""
    from access.care_team import withdrawn

    who, whom = _named(clinician), _named(patient)
    if not _change(lambda by, event: withdrawn(who, whom, by=by, event=event), "withdraw care team"):
        raise SetupError("There is no such relation.")
    console.print("Withdrawn", highlight=False)


@app.command()
@explained
def team(clinician: Clinician, as_json: Json = False) -> None:
    """The patients whose care team a clinician is on."""
    from access.care_team import team_of

    who = _named(clinician)
    rows = _act(team_of(who), "read care team", target=who)
    if as_json:
        print(json.dumps(rows, indent=2, default=str))
        return
    table = Table(box=None)
    for heading in ("patient", "since", "until", "granted by"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        until = "" if row["until"] is None else f"{row['until']:%Y-%m-%d %H:%M}"
        table.add_row(plain(row["patient_id"]), f"{row['since']:%Y-%m-%d %H:%M}", until, plain(row["granted_by"]))
    console.print(table, markup=False)


@app.command()
@explained
def revoke(
    sub: Sub = None,
    login: Login = None,
    jti: Jti = None,
    hours: Annotated[int | None, typer.Option(min=1, max=8784, help="For how long; default: for good.")] = None,
) -> None:
    """Let a person, a login or a token in no more; servers follow within two seconds."""
    from access.denylist import revocation

    kind, value = _one_of(sub, login, jti)
    _change(lambda by, event: revocation(kind, value, by=by, hours=hours, event=event), "revoke")
    console.print("Revoked", highlight=False)


@app.command()
@explained
def restore(sub: Sub = None, login: Login = None, jti: Jti = None) -> None:
    """Undo a revocation from now on; that it was stays on record. Servers follow within two seconds."""
    from access.denylist import restoration

    kind, value = _one_of(sub, login, jti)
    nothing = "There is no such revocation."
    _act(restoration(kind, value), "restore", nothing=nothing, target=f"{kind}:{value}", patients=[])
    console.print("Restored", highlight=False)


def _one_of(sub: str | None, login: str | None, jti: str | None) -> "tuple[Kind, str]":
    given: list[tuple[Kind, str | None]] = [("sub", sub), ("origin_jti", login), ("jti", jti)]
    named = [(kind, value) for kind, value in given if value is not None]
    if len(named) != 1:
        raise SetupError("Name one of --sub, --login and --jti.")
    return named[0][0], _named(named[0][1])


def _change(statement: "Callable[[str, Event], Any]", action: str) -> list[dict[str, Any]]:
    """The rows of a change, given who makes it and its event, which the database writes with it."""
    from access.principal import Role
    from audit.rows import event_document
    from commands.operator import operating

    with operating(Role.ADMIN) as operator, operator.engine.begin() as connection:
        done = connection.execute(statement(operator.principal.subject, event_document(operator.event(action))))
        return [dict(row) for row in done.mappings()]


def _act(statement: Any, action: str, *, nothing: str = "", **about: Any) -> list[dict[str, Any]]:
    """The rows that a statement returns; that it was done is recorded with it.

    With `nothing`, raises SetupError of these words when it did nothing.
    """
    from access.principal import Role
    from commands.operator import operating

    with operating(Role.ADMIN) as operator, operator.engine.begin() as connection:
        rows = [dict(row) for row in connection.execute(statement).mappings()]
        if nothing and not rows:
            raise SetupError(nothing)
        if rows and "patients" not in about:
            about["patients"] = [row["patient_id"] for row in rows]
        operator.record(connection, action, **about)
        return rows


def _named(value: str) -> str:
    from database.subjects import canonical_subject

    if not 0 < len(value) <= _LONGEST or not value.isprintable() or " " in value:
        raise SetupError("That is not the form of an identifier.")
    return canonical_subject(value)
