"""`followup audit …`: seal the trail, prove it, verify it, report on it."""

import json
import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from commands.shared import Json, console, database, explained

app = typer.Typer(help="The audit trail: seal, prove, verify, export, report.", no_args_is_help=True)
Target = Annotated[Path, typer.Argument(help="File to write.")]


@app.command("new-key")
@explained
def make_key(
    file: Annotated[Path, typer.Argument(help="Where; never overwritten.")],
    origin: Annotated[str, typer.Option(envvar="AUDIT_ORIGIN", help="Name of the log and its key.")] = "followup-ml",
) -> None:
    """Make the key that signs checkpoints, and print the verifier key to give to whoever verifies."""
    from audit.checkpoint import Signer, new_key

    new_key(file)
    print(Signer.load(file, origin).verifier)


@app.command()
@explained
def seal() -> None:
    """Seal the trail until stopped: a process of its own, with a database role and a key of its own."""
    import logging
    import threading

    from audit.anchor import AnchorThread, anchor_place
    from audit.checkpoint import Signer
    from audit.sealing import run
    from database.engine import libpq_url
    from settings import load_sealer_settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = load_sealer_settings()
    url = libpq_url(settings.url)
    signer = Signer.load(settings.key_file, settings.audit_origin)
    place = anchor_place(settings.audit_anchor, endpoint=settings.audit_anchor_s3_endpoint)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    anchoring = AnchorThread(url, place, stop, every_s=settings.audit_anchor_every_s) if place is not None else None
    if anchoring is not None:
        anchoring.start()
    try:
        run(url, signer, stop, every_s=settings.audit_seal_every_ms / 1000)
    finally:
        stop.set()
        if anchoring is not None:
            anchoring.join(15)


def _verifier_key() -> str | None:
    """The public half of SEAL_KEY_FILE, where this machine has it."""
    from audit.checkpoint import Signer
    from settings import load_sealer_settings

    settings = load_sealer_settings()
    if not settings.seal_key_file:
        return os.environ.get("AUDIT_VERIFIER_KEY")
    return str(Signer.load(settings.key_file, settings.audit_origin).verifier)


@app.command("export")
@explained
def write_export(
    file: Target,
    fhir: Annotated[bool, typer.Option("--fhir", help="The log alone, as FHIR R4 AuditEvents.")] = False,
) -> None:
    """Write the whole trail with its tree and checkpoints; `followup audit verify` takes it anywhere."""
    from datetime import UTC, datetime

    from rich.progress import Progress

    from audit.events import whole_log
    from audit.export import encode, export
    from audit.fhir import audit_event

    part = file.with_name(f".{file.name}.part")
    with database() as engine:

        def read(work: Any) -> Any:
            with engine.connect() as connection:
                return work(connection)

        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("records", total=None)
            show = lambda done, total: progress.update(task, completed=done, total=total)  # noqa: E731
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
                if fhir:
                    output.writelines(encode(audit_event(entry)) for entry in whole_log(read, datetime.now(UTC)))
                else:
                    output.writelines(map(encode, export(read, _verifier_key(), show)))
    part.replace(file)


@app.command()
@explained
def verify(
    file: Annotated[Path, typer.Argument(help="A sealed export.")],
    key: Annotated[str | None, typer.Option(help="The verifier key as you know it from elsewhere.")] = None,
    anchors: Annotated[Path | None, typer.Option(help="Folder of anchored checkpoints.")] = None,
    as_json: Json = False,
) -> None:
    """Verify a sealed export, offline. Exit 0 only if everything holds."""
    from audit.verify import main

    arguments = [str(file), *(["--key", key] if key else []), *(["--anchors", str(anchors)] if anchors else [])]
    raise typer.Exit(main([*arguments, *(["--json"] if as_json else [])]))


@app.command()
@explained
def prove(prediction_id: Annotated[str, typer.Argument(help="The prediction's id.")]) -> None:
    """Print the proof that a prediction is in the tree: its leaf, the path to the root, the signed checkpoint."""
    from uuid import UUID

    from audit.proofs import inclusion
    from errors import NotFound

    try:
        identity = UUID(prediction_id)
    except ValueError as error:
        raise NotFound("There is no such prediction.") from error
    with database() as engine, engine.connect() as connection:
        print(json.dumps(inclusion(connection, identity), indent=2))
