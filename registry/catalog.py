"""The catalog of versions in `ml_models`: what was registered, with which digest, and which version answers.

Functions take a SQLAlchemy connection; whoever opened it commits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.sql import func

from database.tables import ModelVersion
from errors import SetupError, UnknownModel
from registry.kinds import require_known_kind
from registry.opening import require_form
from registry.signatures import CHALLENGER, Meaning, Signer, acts_on, require_approval, standing
from registry.store import StoredModel

Alias = Literal["champion", "challenger"]

_ROW: Final = ModelVersion.__table__.c
_LONG: Final[dict[str, Any]] = {"input_schema": {}, "output_schema": {}, "training": {}, "model_card": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """One row of the catalog."""

    id: int
    name: str
    version: str
    kind: str
    task: str
    framework: str
    digest: str
    stage: str
    alias: str | None
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    metrics: dict[str, Any]
    training: dict[str, Any]
    model_card: str
    created_by: str
    created_at: datetime
    promoted_by: str | None
    promoted_at: datetime | None


def register(connection: Connection, stored: StoredModel, author: Signer) -> Registered:
    """Write a stored version into the catalog, signed by its author; one that is there must have the same digest.

    One from before acts were signed is signed for now. Raises SetupError for a manifest or a model card of
    another form and for a kind that nothing here serves.
    """
    manifest = stored.manifest
    require_form(stored)
    require_known_kind(manifest.kind, stored.tag)
    known = find(connection, manifest.name, manifest.version)
    if known is not None:
        if known.digest != stored.digest:
            raise SetupError(f"{stored.tag} is registered with another digest; versions are never overwritten.")
        acts = acts_on(connection, known.name, known.version)
        if not any(act.meaning == "registered" and act.model_digest == known.digest for act in acts):
            author.sign(connection, name=known.name, version=known.version, digest=known.digest, meaning="registered")
        return known
    card = _card_of(stored)
    connection.execute(
        insert(ModelVersion).values(
            name=manifest.name,
            version=manifest.version,
            kind=manifest.kind,
            task=manifest.task,
            framework=manifest.framework,
            digest=stored.digest,
            stage=manifest.stage,
            input_schema=manifest.input_schema,
            output_schema=manifest.output_schema,
            metrics=manifest.metrics,
            training=manifest.training,
            model_card=card,
            created_by=author.subject,
        )
    )
    author.sign(connection, name=manifest.name, version=manifest.version, digest=stored.digest, meaning="registered")
    registered = find(connection, manifest.name, manifest.version)
    assert registered is not None
    return registered


def _card_of(stored: StoredModel) -> str:
    card = stored.path / "model_card.md"
    try:
        text = card.read_text(encoding="utf-8") if card.exists() else ""
    except (OSError, ValueError) as error:
        raise SetupError(f"The model card of {stored.tag} cannot be read as text.") from error
    if "\x00" in text:
        raise SetupError(f"The model card of {stored.tag} cannot be read as text.")
    return text


def approve(
    connection: Connection, stored: StoredModel, approver: Signer, *, comment: str = "", meaning: Meaning = "approved"
) -> None:
    """Sign that a version may answer, or with meaning "rejected" that it may not, or no longer: then nothing answers.

    Raises UnknownModel, or SetupError when the files are not those that were registered, the approver is the author or
    nobody signed as the author.
    """
    registered = _required(connection, stored.manifest.name, stored.manifest.version)
    if registered.digest != stored.digest:
        raise SetupError(f"{stored.tag} is not what was registered: its digest differs. It is not approved.")
    if registered.created_by == approver.subject:
        raise SetupError("Nobody approves their own model: another approver has to sign.")
    if meaning == "approved":
        # Who the author is, their signature says: the catalog's column is only what somebody wrote there.
        authors = standing(
            connection,
            name=registered.name,
            version=registered.version,
            digest=registered.digest,
            key=approver.key,
        ).authors
        if not authors:
            raise SetupError(f"Nobody signed for {stored.tag} as its author: followup models register {stored.tag}")
        if approver.subject in authors:
            raise SetupError("Nobody approves their own model: another approver has to sign.")
    approver.sign(
        connection,
        name=registered.name,
        version=registered.version,
        digest=registered.digest,
        meaning=meaning,
        comment=comment,
    )
    if meaning == "rejected":
        connection.execute(update(ModelVersion).where(_ROW.id == registered.id).values(alias=None))


def promote(
    connection: Connection,
    name: str,
    version: str,
    *,
    by: Signer,
    alias: Alias = "champion",
    meaning: Literal["promoted", "rolled-back"] = "promoted",
    override: str = "",
) -> None:
    """Let an approved version answer under an alias; the version that had it steps back.

    Raises UnknownModel, or SetupError for a version of a kind that nothing here serves, that is still experimental,
    that nobody but its author approved, or that is not shown to be better than simple baselines, unless `override` says
    why it may answer all the same: the reason goes into the signature.
    """
    candidate = _required(connection, name, version)
    require_known_kind(candidate.kind, f"{name}:{version}")
    if candidate.stage == "experimental" and alias == "champion":
        raise SetupError(f"{name}:{version} is experimental: too little data stands behind it to let it answer.")
    if override == CHALLENGER:
        raise SetupError("That is not a reason.")
    if not isinstance(candidate.metrics, dict):
        raise SetupError(f"{name}:{version} was registered with metrics that are none.")
    not_better = candidate.metrics.get("beats_baselines") is False
    if not_better and alias == "champion" and meaning == "promoted" and not override.strip():
        raise SetupError(
            f"{name}:{version} is not shown to be better than simple baselines. Who lets it answer all the same gives "
            "a reason: followup models promote --override REASON"
        )
    require_approval(connection, name=name, version=version, digest=candidate.digest, key=by.key)
    comment = CHALLENGER if alias == "challenger" else override.strip()
    by.sign(connection, name=name, version=version, digest=candidate.digest, meaning=meaning, comment=comment)
    connection.execute(update(ModelVersion).where(_ROW.name == name, _ROW.alias == alias).values(alias=None))
    connection.execute(
        update(ModelVersion)
        .where(_ROW.id == candidate.id)
        .values(alias=alias, promoted_by=by.subject, promoted_at=func.clock_timestamp())
    )


def roll_back(connection: Connection, name: str, *, by: Signer) -> Registered:
    """Let the version that answered before the present one answer again. Raises SetupError when there is none."""
    query = select(*_ROW).where(
        _ROW.name == name, _ROW.promoted_at.is_not(None), _ROW.alias.is_distinct_from("champion")
    )
    for row in connection.execute(query.order_by(_ROW.promoted_at.desc())).mappings().all():
        previous = Registered(**row)
        found = standing(connection, name=name, version=previous.version, digest=previous.digest, key=by.key)
        if found.approved:  # one that was rejected since does not come back
            promote(connection, name, previous.version, by=by, meaning="rolled-back")
            return previous
    raise SetupError(f"No other version of {name} has answered before.")


def _required(connection: Connection, name: str, version: str) -> Registered:
    registered = find(connection, name, version)
    if registered is None:
        raise UnknownModel(f"{name}:{version} is not registered.")
    return registered


def find(connection: Connection, name: str, version: str) -> Registered | None:
    row = connection.execute(select(*_ROW).where(_ROW.name == name, _ROW.version == version)).mappings().first()
    return None if row is None else Registered(**row)


def versions(connection: Connection, name: str | None = None, *, in_full: bool = True) -> Sequence[Registered]:
    """All versions, or those of one model; newest first. Not in full: without schemas, card and training."""
    left_out = {} if in_full else _LONG
    columns = [column for column in _ROW if column.name not in left_out]
    query = select(*columns).order_by(_ROW.name, _ROW.created_at.desc(), _ROW.id.desc())
    if name is not None:
        query = query.where(_ROW.name == name)
    return [Registered(**left_out, **row) for row in connection.execute(query).mappings()]


def page(
    connection: Connection, name: str, *, limit: int, before: int | None
) -> tuple[Sequence[Registered], int | None]:
    """Versions of one model in full, those registered last first, and where the next page begins."""
    query = select(*_ROW).where(_ROW.name == name).order_by(_ROW.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(_ROW.id < before)
    found = [Registered(**row) for row in connection.execute(query).mappings()]
    return found[:limit], found[limit - 1].id if len(found) > limit else None


def champions(connection: Connection) -> Sequence[Registered]:
    """The versions that answer, one for each model."""
    query = select(*_ROW).where(_ROW.alias == "champion").order_by(_ROW.name)
    return [Registered(**row) for row in connection.execute(query).mappings()]
