"""`followup agreements …`: business associate agreements, without which no external model may be enabled."""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from commands.shared import console, explained
from errors import SetupError

app = typer.Typer(help="Agreements that an external model needs.", no_args_is_help=True)


@app.callback()
def agreements() -> None:
    """Agreements that an external model needs."""


@app.command()
@explained
def sign(
    model: Annotated[str, typer.Argument(help="The external model's name.")],
    document: Annotated[Path, typer.Argument(help="The signed agreement; only its SHA-256 is kept.")],
    party: Annotated[str, typer.Option(help="With whom it is.")],
    scope: Annotated[str, typer.Option(help="What it covers.")],
    expires: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="The last day on which it is in force.")],
) -> None:
    """Sign, as an approver, that an agreement is in force. A second approver signs the same."""
    from access.principal import Role
    from commands.operator import operating
    from registry.agreements import Agreement
    from registry.agreements import sign as put_signature

    try:
        digest = hashlib.sha256(document.read_bytes()).hexdigest()
    except OSError as error:
        raise SetupError("The document cannot be read.") from error
    agreement = Agreement(model_name=model, party=party, scope=scope, document_sha256=digest, expires_on=expires.date())
    with operating(Role.APPROVER) as approver, approver.engine.begin() as connection:
        put_signature(connection, agreement, approver.signer)
        approver.record(connection, "sign agreement", target=model)
    console.print("Signed. Two different approvers are needed.", highlight=False)
