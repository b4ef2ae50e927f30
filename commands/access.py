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

app = typer.Typer(help="Care teams and revocations; needs an administrator's token.", no_args_is_help=True)
Clinician = Annotated[str, typer.Argument(help="Cognito sub of the clinician.")]
Patient = Annotated[str, typer.Argument(help="Cognito sub of the patient.")]
Sub = Annotated[str | None, typer.Option(help="A person or service: the token's sub.")]
Login = Annotated[str | None, typer.Option(help="A login and all its tokens: origin_jti.")]
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

    def statement(by: str) -> Any:
        return granted(_named(clinician), _named(patient), by=by, days=days)

    until = _act(statement, "grant care team", target=clinician, patients=[patient])[0]["until"]
    console.print(f"On the care team {'until ' + until.isoformat() if until else 'until withdrawn'}", highlight=False)


@app.command()
@explained
def withdraw(clinician: Clinician, patient: Patient) -> None:
    """Take a clinician off a patient's care team; servers follow within seconds."""
    from access.care_team import withdrawn

    statement = withdrawn(_named(clinician), _named(patient))
    nothing = "There is no such relation."
    _act(lambda _by: statement, "withdraw care team", nothing=nothing, target=clinician, patients=[patient])
    console.print("Withdrawn", highlight=False)


@app.command()
@explained
def team(clinician: Clinician, as_json: Json = False) -> None:
    """The patients whose care team a clinician is on."""
    from access.care_team import team_of

    query = team_of(_named(clinician))
    rows = _act(lambda _by: query, "read care team", target=clinician)
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
    _act(lambda by: revocation(kind, value, by=by, hours=hours), "revoke", target=f"{kind}:{value}")
    console.print("Revoked", highlight=False)


@app.command()
@explained
def restore(sub: Sub = None, login: Login = None, jti: Jti = None) -> None:
    """Undo a revocation from now on; that it was stays on record. Servers follow within two seconds."""
    from access.denylist import restoration

    kind, value = _one_of(sub, login, jti)
    nothing = "There is no such revocation."
    _act(lambda _by: restoration(kind, value), "restore", nothing=nothing, target=f"{kind}:{value}", patients=[])
    console.print("Restored", highlight=False)


def _one_of(sub: str | None, login: str | None, jti: str | None) -> "tuple[Kind, str]":
    given: list[tuple[Kind, str | None]] = [("sub", sub), ("origin_jti", login), ("jti", jti)]
    named = [(kind, value) for kind, value in given if value is not None]
    if len(named) != 1:
        raise SetupError("Name one of --sub, --login and --jti.")
    return named[0][0], _named(named[0][1])


def _act(statement: Callable[[str], Any], action: str, *, nothing: str = "", **about: Any) -> list[dict[str, Any]]:
    """The rows that a statement returns, given who does it; that it was done is recorded with it.

    With `nothing`, raises SetupError of these words when it did nothing.
    """
    from access.principal import Role
    from commands.operator import operating

    with operating(Role.ADMIN) as operator, operator.engine.begin() as connection:
        done = connection.execute(statement(operator.principal.subject))
        rows = [dict(row) for row in done.mappings()] if done.returns_rows else []
        if nothing and not rows:
            raise SetupError(nothing)
        if rows and "patients" not in about:
            about["patients"] = [row["patient_id"] for row in rows]
        operator.record(connection, action, **about)
        return rows


def _named(value: str) -> str:
    if not 0 < len(value) <= _LONGEST or not value.isprintable() or " " in value:
        raise SetupError("That is not the form of an identifier.")
    return value
