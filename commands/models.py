"""`followup models …`: versions of models, and which one answers."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from commands.shared import Json, console, database, explained, plain
from errors import SetupError

app = typer.Typer(help="Versions of models: signed for, approved, promoted.", no_args_is_help=True)
Promote = Annotated[bool, typer.Option("--promote", help="In a demo: let it answer at once.")]
Tag = Annotated[str, typer.Argument(help="NAME:VERSION")]
Comment = Annotated[str, typer.Option(help="Goes into the signature.")]


@contextmanager
def registering(*, promote: bool) -> Iterator[Callable[[Any], None]]:
    """Asks at the start who will sign, so that nobody trains for hours in vain; gives what registers a stored model."""
    from access.principal import Role
    from commands.operator import demo_operator, in_demo, operating
    from registry import catalog

    with operating(Role.ML_ENGINEER) as author:
        if promote and not in_demo():
            raise SetupError("Somebody else has to approve a model first: followup models approve, then promote.")

        def register(stored: Any) -> None:
            name, version = stored.manifest.name, stored.manifest.version
            with author.engine.begin() as connection:
                catalog.register(connection, stored, author.signer)
                author.record(connection, "register model", target=stored.tag)
                if promote:
                    approver = demo_operator(author, Role.APPROVER)
                    catalog.approve(connection, stored, approver.signer, comment="demo")
                    approver.record(connection, "approve model", target=stored.tag)
                    reason = "a demo of simulated people"
                    catalog.promote(connection, name, version, by=approver.signer, override=reason)
                    approver.record(connection, "promote model", target=stored.tag)
            answers = "; it answers now" if promote else f"; next, by another: followup models approve {stored.tag}"
            Console(stderr=True).print(f"Saved and registered {stored.tag}{answers}", highlight=False, soft_wrap=True)

        yield register


def answering(name: str) -> Any:
    """The version of a model that answers now, as the catalog has it, or None."""
    from registry import catalog

    with database() as engine, engine.connect() as connection:
        return next((one for one in catalog.champions(connection) if one.name == name), None)


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
def show(tag: Tag, as_json: Json = False) -> None:
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
def approve(tag: Tag, comment: Comment = "") -> None:
    """Sign that a version may answer. Needs the role approver, and somebody other than its author."""
    _judge(tag, "approved", comment)
    console.print(f"{tag} is approved; to let it answer: followup models promote {tag}", highlight=False)


@app.command()
@explained
def reject(tag: Tag, comment: Comment = "") -> None:
    """Sign that a version may not answer, or no longer; it is not loaded again after."""
    _judge(tag, "rejected", comment)
    console.print(f"{tag} is rejected", highlight=False)


def _judge(tag: str, meaning: Any, comment: str) -> None:
    from access.principal import Role
    from commands.operator import operating
    from registry import catalog, opening

    name, _, version = tag.partition(":")
    with operating(Role.APPROVER) as approver, approver.engine.begin() as connection:
        catalog.approve(connection, opening.get(name, version), approver.signer, comment=comment, meaning=meaning)
        approver.record(connection, "approve model" if meaning == "approved" else "reject model", target=tag)


@app.command()
@explained
def promote(
    tag: Tag,
    override: Annotated[
        str, typer.Option(help="Why it may answer though it is not shown to beat simple baselines; signed.")
    ] = "",
) -> None:
    """Let an approved version answer; running servers take it over within seconds, without a restart.

    One that is not shown to be better than simple baselines needs a reason.
    """
    from access.principal import Role
    from access.reasons import says_something
    from commands.operator import operating
    from registry import catalog

    if override and not says_something(override):
        raise SetupError("The reason must say something, in words.")
    name, _, version = tag.partition(":")
    with operating(Role.APPROVER) as approver, approver.engine.begin() as connection:
        catalog.promote(connection, name, version, by=approver.signer, override=override)
        approver.record(connection, "promote model", target=tag)
    console.print(f"{tag} answers now", highlight=False)


@app.command()
@explained
def rollback(name: Annotated[str, typer.Argument(help="NAME")]) -> None:
    """Let the version that answered before answer again."""
    from access.principal import Role
    from commands.operator import operating
    from registry import catalog

    with operating(Role.APPROVER) as approver, approver.engine.begin() as connection:
        previous = catalog.roll_back(connection, name, by=approver.signer)
        tag = f"{previous.name}:{previous.version}"
        approver.record(connection, "roll back model", target=tag)
    console.print(f"{tag} answers again", highlight=False)


@app.command()
@explained
def signatures(tag: Tag, as_json: Json = False) -> None:
    """Who signed what on a version, and whether the signatures hold."""
    from access.principal import Role
    from commands.operator import operating
    from registry.signatures import acts_on

    name, _, version = tag.partition(":")
    with operating(*Role) as reader, reader.engine.connect() as connection:
        acts = acts_on(connection, name, version)
        holds = [reader.key.signed(act.signature, act.statement) for act in acts]
    if as_json:
        shown = [{**orjson.loads(act.statement), "valid": valid} for act, valid in zip(acts, holds, strict=True)]
        print(json.dumps(shown, indent=2))
        return
    table = Table("when", "meaning", "signer", "digest", "valid", "comment", box=None)
    for act, valid in zip(acts, holds, strict=True):
        at = act.signed_at.strftime("%Y-%m-%d %H:%M")
        table.add_row(
            at, act.meaning, plain(act.signer), act.model_digest[:12], "yes" if valid else "NO", plain(act.comment)
        )
    Console(width=max(140, console.width)).print(table)


@app.command()
@explained
def register(
    tag: Annotated[str, typer.Argument(help="NAME:VERSION of the BentoML store")], promote: Promote = False
) -> None:
    """Register a version that came into the store by `bentoml models import`."""
    from registry import opening

    name, _, version = tag.partition(":")
    with registering(promote=promote) as register_stored:
        register_stored(opening.get(name, version))
