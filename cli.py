"""The command line: `followup …`. Each command says what it does and exits with 1 and one line when it cannot."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from commands import access as access_commands
from commands import agreements as agreements_commands
from commands import audit as audit_commands
from commands import keys as keys_commands
from commands import models as models_commands
from commands.models import Promote, answering, registering
from commands.shared import Json, console, database, explained
from errors import SetupError

ROOT: Final = Path(__file__).resolve().parent

app = typer.Typer(
    help="Self-hosted, audited ML inference for wellness monitoring.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train a model, save it to the store and register it.", no_args_is_help=True)
app.add_typer(train_app, name="train")
app.add_typer(models_commands.app, name="models")
app.add_typer(access_commands.app, name="access")
app.add_typer(keys_commands.app, name="keys")
app.add_typer(agreements_commands.app, name="agreements")
app.add_typer(audit_commands.app, name="audit")


@app.command()
@explained
def up(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8000,
) -> None:
    """Set up everything for a demo on this machine, then serve it. Not for patients' data."""
    from demo_server import run

    run(port=port)


@app.command()
@explained
def serve() -> None:
    """Serve with the settings of the environment: real PostgreSQL, Redis and Cognito.

    Refuses to start when one is missing.
    """
    from settings import load_settings

    settings = load_settings()
    if settings.followup_mode == "demo":
        raise SetupError("FOLLOWUP_MODE is demo: use `followup up`.")
    host, port = settings.followup_host, str(settings.followup_port)
    command = [sys.executable, "-m", "bentoml", "serve", "service:FollowupML", "--host", host, "--port", port]
    os.chdir(ROOT)
    os.execv(sys.executable, command)  # noqa: S606 - no shell, and nothing but our own arguments


@app.command()
@explained
def token(
    role: Annotated[str, typer.Option(help="clinician, patient, ml-engineer, approver, auditor, admin or service.")],
    sub: Annotated[str | None, typer.Option(help="Cognito sub; default: the demo's person of that role.")] = None,
) -> None:
    """Print a token of the demo's issuer, good for 15 minutes."""
    from access.dev_issuer import DevIssuer, demo_subject
    from access.principal import Role
    from demo import HOME

    if role not in set(Role):
        raise SetupError(f"There is no role of that name. Roles: {', '.join(Role)}.")
    home = Path(os.environ.get("FOLLOWUP_HOME", HOME))
    if not (home / "issuer").exists():
        raise SetupError(f"There is no demo in {home}: start it with `followup up`, or set FOLLOWUP_HOME.")
    print(DevIssuer(home / "issuer").token([role], sub or demo_subject(role)))


Seed = Annotated[int | None, typer.Option(help="The same seed, data and machine give the same model.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="More take longer and may learn more.")]


@train_app.command()
@explained
def deterioration(
    *,
    days: Annotated[int, typer.Option(min=14, help="How many of the last days to learn from.")] = 90,
    from_csv: Annotated[Path | None, typer.Option(help="Readings from a CSV file instead of the database.")] = None,
    outcomes_csv: Annotated[Path | None, typer.Option(help="With it: a line for each decline.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="OURS=THEIRS, OURS=THEIRS*N, OURS=THEIRS/N.")] = None,
    label_sql: Annotated[
        Path | None, typer.Option(help="File with a query for declines: patient_id, date; instead of patient_outcomes.")
    ] = None,
    seed: Seed = None,
    epochs: Epochs = None,
    search: Annotated[
        int, typer.Option(min=0, metavar="N", help="Look for better settings first, by N fits (optuna).")
    ] = 0,
    promote: Promote = False,
    as_json: Json = False,
) -> None:
    """Train on patient_measurements (and patient_outcomes, where there are any) of DATABASE_URL, or on CSV files."""
    from dataclasses import replace

    from training.progress import progress_bar
    from training.train_deterioration_model import Rows, TrainingConfig, train
    from training.unfinished import usual_folder

    if (outcomes_csv or column) and not from_csv:
        raise SetupError("--outcomes-csv and --column go with --from-csv.")
    if from_csv and label_sql:
        raise SetupError("--label-sql asks the database; with --from-csv give --outcomes-csv.")
    rows = Rows.from_csv(from_csv, outcomes_csv, column or []) if from_csv else None
    query = label_sql.read_text(encoding="utf-8") if label_sql else None
    config = TrainingConfig(days=days, label_query=query, search_trials=search, unfinished=usual_folder())
    config = replace(config, fit=replace(config.fit, **_given(seed=seed, epochs=epochs)))
    with registering(promote=promote) as register_stored, database() as engine, progress_bar() as progress:
        stored = train(rows or engine, config, progress)
        register_stored(stored)
    _show_metrics(stored, as_json, "verdict", "auroc", "auroc_within_patient", "calibration_slope")


@train_app.command()
@explained
def logistic(seed: Seed = None, promote: Promote = False, as_json: Json = False) -> None:
    """Train logistic regression on the same data: a baseline of the network, served under its own name."""
    from dataclasses import replace

    from training.progress import progress_bar
    from training.train_deterioration_model import TrainingConfig
    from training.train_logistic_model import train

    config = TrainingConfig()
    with registering(promote=promote) as register_stored, database() as engine, progress_bar() as progress:
        stored = train(engine, replace(config, fit=replace(config.fit, **_given(seed=seed))), progress)
        register_stored(stored)
    _show_metrics(stored, as_json, "verdict", "auroc", "auroc_within_patient", "calibration_slope")


ner_app = typer.Typer(help="The entity recogniser.", invoke_without_command=True)
train_app.add_typer(ner_app, name="ner")


@ner_app.callback()
@explained
def ner(
    context: typer.Context,
    *,
    corpus: Annotated[Path | None, typer.Option(help="A site's own annotated notes: a file or a folder.")] = None,
    format_: Annotated[str, typer.Option("--format", help="brat, conll or inline.")] = "inline",
    label: Annotated[list[str] | None, typer.Option(help="THEIRS=OURS; THEIRS= drops a label.")] = None,
    document_column: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of CoNLL rows: which column, from 1, names the document.")
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Learn from the site's notes only.")] = False,
    seed: Seed = None,
    epochs: Epochs = None,
    promote: Promote = False,
    as_json: Json = False,
) -> None:
    """Train the entity recogniser on the project's corpus, and on a site's own annotated notes where they are given."""
    if context.invoked_subcommand:
        return
    from dataclasses import replace

    from training.ner import site_corpus
    from training.ner.before import Before, effect, newest
    from training.ner.manifest import NAME
    from training.progress import progress_bar
    from training.train_ner_model import NerConfig, train
    from training.unfinished import usual_folder

    if corpus is None and (label or alone or document_column):
        raise SetupError("--label, --document-column and --alone go with --corpus.")
    if format_ not in site_corpus.FORMATS:
        raise SetupError(f"--format is one of {', '.join(site_corpus.FORMATS)}.")
    if document_column and format_ != "conll":
        raise SetupError("--document-column goes with --format conll.")
    labels = site_corpus.label_map(label or [])
    site = site_corpus.read(corpus, format_, labels, document_column=document_column) if corpus else None
    config = NerConfig(site=site, site_alone=alone, unfinished=usual_folder())
    with registering(promote=promote) as register_stored:
        if site:
            champion = answering(NAME)
            now = Before.of(f"{NAME}:{champion.version}", champion.metrics, champion.training) if champion else None
            config = replace(config, before=now or newest())
        with progress_bar() as progress:
            stored = train(replace(config, fit=replace(config.fit, **_given(seed=seed, epochs=epochs))), progress)
        register_stored(stored)
    _show_metrics(stored, as_json, "f1_strict", "f1_relaxed", "ece", "served", *(["site"] if site else []))
    if site and not as_json:
        console.print(f"  {effect(stored)}", highlight=False, markup=False, soft_wrap=True)


@ner_app.command("import")
@explained
def import_ner(
    *,
    from_: Annotated[str, typer.Option("--from", help="A local folder, or a model hub's id where one can be reached.")],
    label: Annotated[
        list[str] | None, typer.Option(help="THEIRS=OURS, or THEIRS=OURS,OURS; of LABEL_n also B-OURS, I-OURS or O.")
    ] = None,
    promote: Promote = False,
    as_json: Json = False,
) -> None:
    """Serve a token classifier that somebody else trained, such as samrawal/bert-base-uncased_clinical-ner."""
    from training.ner.importing import import_model, targets
    from training.progress import progress_bar

    labels = targets(label or [])
    with registering(promote=promote) as register_stored:
        with progress_bar() as progress:
            stored = import_model(from_, labels, progress)
        register_stored(stored)
    _show_metrics(stored, as_json, "f1_strict", "f1_relaxed", "ece", "served")


def _given(**options: int | None) -> dict[str, Any]:
    """The options that were given; for the others the model's own defaults hold."""
    return {name: value for name, value in options.items() if value is not None}


def _show_metrics(stored: Any, as_json: bool, *names: str) -> None:
    metrics, run = stored.manifest.metrics, stored.manifest.run
    if as_json:
        print(json.dumps({"tag": stored.tag, "digest": stored.digest, "metrics": metrics, "run": run}))
        return
    for name, value in [*((name, metrics.get(name)) for name in names), *run.items()]:
        console.print(f"  {name}: {value}", highlight=False, markup=False, soft_wrap=True)


@app.command("demo-data")
@explained
def demo_data(
    patients: Annotated[int, typer.Option(min=1, help="How many made-up people.")] = 600,
    days: Annotated[int, typer.Option(min=14, help="How many days of each, ending yesterday.")] = 90,
    seed: Annotated[int, typer.Option(help="Another seed, other people.")] = 7,
    replace: Annotated[bool, typer.Option("--replace", help="Replace simulated rows that are there already.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write no rows, but a page: the simulated world beside real home monitoring.")
    ] = None,
) -> None:
    """Fill patient_measurements and patient_outcomes from the simulator."""
    if report is not None:
        _simulator_report(report, patients, days, seed)
        return
    from training.deterioration.demo_data import load_demo_data
    from training.progress import progress_bar

    with database() as engine, progress_bar() as progress:
        loaded = load_demo_data(engine, patients, days, seed, progress, replace=replace)
    console.print(
        f"{loaded.measurements} days of {loaded.patients} made-up people, {loaded.declines} declines,"
        f" to {loaded.last_day}",
        highlight=False,
    )


def _simulator_report(target: Path, patients: int, days: int, seed: int) -> None:
    from training.deterioration.simulator_report import report
    from training.progress import progress_bar

    with progress_bar() as progress:
        page, statistics = report(patients, days, seed=seed, progress=progress)
    target.write_text(page, encoding="utf-8")
    for each in statistics:
        said = "" if each.fits else "  does not fit"
        console.print(f"  {each.name}: {each.value:.2f}  (real: {each.low:g} to {each.high:g}){said}", highlight=False)


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # One model store for all commands; BentoML reads these when it is imported.
    home = Path(os.environ.get("FOLLOWUP_HOME", ".followup"))
    os.environ.setdefault("BENTOML_HOME", str((home / "bentoml").resolve()))
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    app()


if __name__ == "__main__":
    main()
