"""`followup models …`: versions of models, and which one answers."""

import json
import os
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from commands.shared import Json, console, database, explained
from errors import SetupError

app = typer.Typer(help="Versions of models: which there are, which one answers.", no_args_is_help=True)
Promote = Annotated[bool, typer.Option("--promote", help="Let it answer at once.")]


def register_stored(engine: Any, stored: Any, *, promote: bool) -> None:
    from registry import catalog

    with engine.begin() as connection:
        catalog.register(connection, stored)
        if promote:
            catalog.promote(connection, stored.manifest.name, stored.manifest.version, by=os.environ.get("USER", "cli"))
    answers = "; it answers now" if promote else f"; to let it answer: followup models promote {stored.tag}"
    Console(stderr=True).print(f"Saved and registered {stored.tag}{answers}", highlight=False, soft_wrap=True)


@app.command("list")
@explained
def list_models(as_json: Json = False) -> None:
    """All registered versions."""
    from registry import catalog

    with database() as engine, engine.connect() as connection:
        versions = catalog.versions(connection)
    if as_json:
        names = ("name", "version", "alias", "stage", "task", "digest", "metrics")
        print(json.dumps([{name: getattr(version, name) for name in names} for version in versions], indent=2))
        return
    table = Table(box=None)
    for heading in ("model", "version", "alias", "stage", "created", "digest"):
        table.add_column(heading, no_wrap=True)
    for version in versions:
        created = version.created_at.strftime("%Y-%m-%d %H:%M")
        table.add_row(version.name, version.version, version.alias or "", version.stage, created, version.digest[:12])
    Console(width=max(120, console.width)).print(table)  # a tag that is cut off cannot be promoted


@app.command()
@explained
def show(tag: Annotated[str, typer.Argument(help="NAME:VERSION")], as_json: Json = False) -> None:
    """One version in full, with its model card."""
    from dataclasses import asdict

    from registry import catalog

    name, _, version = tag.partition(":")
    with database() as engine, engine.connect() as connection:
        registered = catalog.find(connection, name, version)
    if registered is None:
        raise SetupError("No such version: followup models list")
    if as_json:
        print(json.dumps(asdict(registered), indent=2, default=str))
    else:
        console.print(registered.model_card, markup=False, highlight=False)


@app.command()
@explained
def promote(tag: Annotated[str, typer.Argument(help="NAME:VERSION")]) -> None:
    """Let a version answer; running servers take it over within seconds, without a restart."""
    from registry import catalog

    name, _, version = tag.partition(":")
    with database() as engine, engine.begin() as connection:
        catalog.promote(connection, name, version, by=os.environ.get("USER", "cli"))
    console.print(f"{tag} answers now", highlight=False)


@app.command()
@explained
def register(
    tag: Annotated[str, typer.Argument(help="NAME:VERSION of the BentoML store")], promote: Promote = False
) -> None:
    """Register a version that came into the store by `bentoml models import`."""
    from registry import store

    name, _, version = tag.partition(":")
    with database() as engine:
        register_stored(engine, store.get(name, version), promote=promote)
