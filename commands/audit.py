"""`followup audit …`: seal the trail, prove it, verify it, report on it."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from commands.shared import Json, console, explained, plain, whole_file
from errors import SetupError

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
    from audit.last_signed import LastSigned
    from audit.sealing import run
    from database.engine import libpq_url
    from settings import load_sealer_settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = load_sealer_settings()
    url = libpq_url(settings.url)
    signer = Signer.load(settings.key_file, settings.audit_origin)
    place = anchor_place(settings.audit_anchor, endpoint=settings.audit_anchor_s3_endpoint)
    last = LastSigned(signer.verifier, settings.state_file)
    if place is not None:
        last.recall(signer.verifier, place)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    anchoring = None
    if place is not None:
        every_s = settings.audit_anchor_every_s
        anchoring = AnchorThread(url, place, stop, every_s=every_s, verifier=signer.verifier)
        anchoring.start()
    try:
        run(url, signer, stop, every_s=settings.audit_seal_every_ms / 1000, last=last)
    finally:
        stop.set()
        if anchoring is not None:
            anchoring.join(15)


@app.command()
@explained
def restored(reason: Annotated[str, typer.Option(help="Why; kept in plain, so name nobody.")]) -> None:
    """State, signed with the seal key, that this database was restored from a backup; then the sealer goes on from it.

    Needs SEAL_KEY_FILE, and SEAL_STATE_FILE or AUDIT_ANCHOR as the sealer had them: they say what was signed last.
    """
    from datetime import UTC, datetime

    from access.principal import Role
    from access.reasons import says_something
    from audit.anchor import anchor_place
    from audit.checkpoint import Signer
    from audit.last_signed import LastSigned
    from audit.restoration import RESTORED, put_on_record, state
    from commands.operator import operating
    from settings import load_sealer_settings

    if not says_something(reason):
        raise SetupError("The reason must say something, in words.")
    settings = load_sealer_settings()
    signer = Signer.load(settings.key_file, settings.audit_origin)
    last = LastSigned(signer.verifier, settings.state_file)
    if (place := anchor_place(settings.audit_anchor, endpoint=settings.audit_anchor_s3_endpoint)) is not None:
        last.recall(signer.verifier, place)
    with operating(Role.ADMIN, Role.AUDITOR) as operator, operator.engine.begin() as connection:
        raw: Any = connection.connection.driver_connection
        by = operator.principal.subject
        said = state(raw, signer.verifier, last, by=by, reason=reason, now=datetime.now(UTC))
        put_on_record(connection, operator.event(RESTORED, target=said.signed(signer)))
    lost = said.signed_last.size - said.size
    console.print(f"{said.size} sealed records restored, {lost} lost; a sealer goes on from there", soft_wrap=True)


@contextmanager
def _auditing(action: str, **about: Any) -> Iterator[Any]:
    """A read of the trail for somebody with an auditor's token; on record before anything is shown.

    Gives what runs a read in a transaction of its own.
    """
    from access.principal import Role
    from commands.operator import operating

    with operating(Role.AUDITOR) as auditor:

        def read(work: Any) -> Any:
            with auditor.engine.connect() as connection:
                return work(connection)

        with auditor.engine.begin() as connection:
            auditor.record(connection, action, **about)
        yield read


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

    from access.policy import Action
    from audit.events import whole_log
    from audit.export import encode, export
    from audit.fhir import audit_event

    bars = Progress(console=console, transient=True, disable=not console.is_terminal)
    with _auditing(Action.EXPORT_AUDIT, target="fhir" if fhir else "sealed") as read, bars:
        task = bars.add_task("records", total=None)
        show = lambda done, total: bars.update(task, completed=done, total=total)  # noqa: E731
        with whole_file(file) as output:
            if fhir:
                output.writelines(encode(audit_event(entry)) for entry in whole_log(read, datetime.now(UTC)))
            else:
                output.writelines(map(encode, export(read, _verifier_key(), show)))


@app.command()
@explained
def verify(  # noqa: PLR0917 - options of a command
    file: Annotated[Path, typer.Argument(help="A sealed export, or one proof.")],
    key: Annotated[str | None, typer.Option(help="The verifier key as you know it; a proof needs it.")] = None,
    anchors: Annotated[Path | None, typer.Option(help="Folder of anchored checkpoints.")] = None,
    consistency: Annotated[
        list[Path] | None, typer.Option(help="Answers of /audit/consistency from the export to newer anchors.")
    ] = None,
    answer: Annotated[Path | None, typer.Option(help="With a proof: the answer that was given, to compare.")] = None,
    as_json: Json = False,
) -> None:
    """Verify a sealed export or one proof, offline.

    Exit 0 everything holds, 1 something does not, 2 not looked at, 3 no key given, 4 anchors are newer than it.
    """
    from audit.verify import main

    given = [("--key", key), ("--anchors", anchors), ("--answer", answer)]
    given += [("--consistency", file) for file in consistency or ()]
    arguments = [str(file), *(part for name, value in given if value for part in (name, str(value)))]
    raise typer.Exit(main([*arguments, *(["--json"] if as_json else [])]))


@app.command()
@explained
def prove(prediction_id: Annotated[str, typer.Argument(help="The prediction's id.")]) -> None:
    """Print the proof that a prediction is in the tree: its leaf, the path to the root, the signed checkpoint."""
    from uuid import UUID

    from access.policy import Action
    from audit.proofs import inclusion
    from errors import NotFound

    try:
        identity = UUID(prediction_id)
    except ValueError as error:
        raise NotFound("There is no such prediction.") from error
    with _auditing(Action.VERIFY_AUDIT, target=str(identity)) as read:
        print(json.dumps(read(lambda connection: inclusion(connection, identity)), indent=2))


@app.command()
@explained
def report(
    week: Annotated[str, typer.Option(help="ISO 8601 week, as 2026-W48.")],
    as_json: Json = False,
) -> None:
    """The week's activity review, signed as a note with the seal key; --json prints it unsigned, for machines."""
    from access.policy import Action
    from audit.checkpoint import Signer
    from audit.events import whole_log
    from audit.report import activity, activity_markdown, week_bounds
    from settings import load_sealer_settings

    begins, ends = week_bounds(week)
    with _auditing(Action.READ_AUDIT, target=f"activity of {week}") as read:
        review = activity(week, whole_log(read, ends, begins))
    if as_json:
        print(json.dumps(review, indent=2))
        return
    settings = load_sealer_settings()
    signer = Signer.load(settings.key_file, settings.audit_origin)
    print(signer.sign(activity_markdown(review)), end="")


@app.command()
@explained
def disclosures(
    patient: Annotated[str, typer.Argument(help="The patient's id.")],
    as_json: Json = False,
) -> None:
    """To whom something about a patient was shown in the last six years: date, recipient, what, why."""
    from datetime import UTC, datetime, timedelta

    from rich.table import Table

    from access.policy import Action
    from audit.events import whole_log
    from audit.report import disclosures as account

    now = datetime.now(UTC)
    with _auditing(Action.READ_AUDIT, target="disclosures", patients=[patient]) as read:
        found = account(patient, whole_log(read, now, now - timedelta(days=6 * 365 + 2), patient))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("date", "recipient", "what", "why", box=None)
    for shown in found:
        table.add_row(*map(plain, shown.values()))
    console.print(table)


@app.command()
@explained
def archive(
    before: Annotated[str, typer.Option(help="Every month before this one, as 2020-11.")],
    to: Annotated[Path, typer.Option(help="Folder of the archives.")],
) -> None:
    """Move months older than six years from the database into encrypted archives; needs SEAL_KEY_FILE."""
    from access.principal import Role
    from audit.checkpoint import Signer
    from audit.envelope import Envelope
    from audit.retention import archive as archive_months
    from commands.operator import operating
    from settings import load_sealer_settings

    sealing = load_sealer_settings()
    signer = Signer.load(sealing.key_file, sealing.audit_origin)
    with operating(Role.ADMIN) as operator:
        envelope = Envelope(operator.archive_key, "archives")
        done = archive_months(
            operator.engine,
            before,
            to,
            seal=lambda plain: envelope.seal(plain, "archive"),
            unseal=lambda sealed: envelope.open(sealed, "archive"),
            by=operator.principal.subject,
            signer=signer,
        )
        for month in done:
            console.print(f"{month.partition}: {month.rows} rows in {month.file}", highlight=False, soft_wrap=True)


Patient = Annotated[str, typer.Argument(help="The patient's id, or `everybody`.")]


@app.command()
@explained
def hold(patient: Patient, reason: Annotated[str, typer.Option(help="Why; kept as it is, so name nobody.")]) -> None:
    """Legal hold: from now on nothing of this patient is erased or archived."""
    from access.principal import Role
    from access.reasons import says_something
    from audit.retention import place_hold
    from commands.operator import operating
    from database.subjects import canonical_subject

    whom = None if patient == "everybody" else canonical_subject(patient)
    if not says_something(reason):
        raise SetupError("The reason must say something, in words.")
    with operating(Role.ADMIN) as operator, operator.engine.begin() as connection:
        place_hold(connection, whom, reason, by=operator.principal.subject)


@app.command()
@explained
def release(patient: Patient) -> None:
    """End the legal holds on this patient."""
    from access.principal import Role
    from audit.retention import release_holds
    from commands.operator import operating

    whom = None if patient == "everybody" else patient
    with operating(Role.ADMIN) as operator, operator.engine.begin() as connection:
        if not release_holds(connection, whom, by=operator.principal.subject):
            raise SetupError("There is no such legal hold.")


@app.command("research-export")
@explained
def research_export(file: Annotated[Path, typer.Argument(help="Where to write the NDJSON.")]) -> None:
    """Records without anything that tells whose they are: random surrogates, no text, no dates, no addresses."""
    import asyncio

    from access.principal import Role
    from audit.research import ResearchExport
    from commands.operator import operating

    with operating(Role.AUDITOR) as operator, whole_file(file) as output, ResearchExport(file.parent) as export:
        with operator.engine.begin() as connection:  # on record before anything is written
            operator.record(connection, "export for research")
        unreadable = asyncio.run(_take_opened_records(operator.settings, export.add))
        if unreadable and not export.count:
            raise SetupError(f"None of {unreadable} records opens: is ENCRYPTION_KEY the one that sealed them?")
        output.writelines(line + b"\n" for line in export.lines())
    console.print(f"{export.count} records in {file}", highlight=False, soft_wrap=True)
    if unreadable:
        console.print(f"{unreadable} more do not open: they are not what was sealed", highlight=False, soft_wrap=True)


async def _take_opened_records(settings: Any, take: Callable[[dict[str, Any]], None]) -> int:
    """How many do not open."""
    from audit.data_keys import DataKeys
    from audit.research import opened_records
    from bootstrap import key_ring
    from database.engine import open_async_engine
    from settings import owner_database_url

    engine = open_async_engine(owner_database_url(), pool_size=2)
    keys = DataKeys(engine, key_ring(settings))
    try:
        unreadable = 0
        async for record in opened_records(engine, keys):
            if record is None:
                unreadable += 1
            else:
                take(record)
        return unreadable
    finally:
        await keys.close()
        await engine.dispose()
