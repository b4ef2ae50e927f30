"""Versions: registered with their digest, promoted, followed without a restart, refused when their files changed."""

import asyncio
import json
import os
import shutil
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bentoml
import pytest
from sqlalchemy import Engine, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from bootstrap import _runners
from database.tables import ModelSignature
from errors import ModelNotLoaded, SetupError, UnknownModel
from inference.deployments import Deployments, NotLoaded
from registry import catalog, opening, store
from registry.kinds import KINDS
from registry.signatures import CHALLENGER, Signature, Signer, SigningKey, acts_on
from registry.store import Manifest, StoredModel
from runners.batching import Limits
from runners.runner import Prediction
from settings import load_settings
from tests import server
from tests.conftest import eventually


class Constant:
    """A runner that answers with what its folder says."""

    def __init__(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        self.answer = (folder / "answer.txt").read_text()

    def parse(self, input_data: Mapping[str, Any]) -> str:
        return ""

    def canonical(self, item: str) -> str:
        return item

    def cost(self, item: str) -> int:
        return 1

    def run(self, items: Sequence[str]) -> Sequence[Prediction]:
        return [Prediction({"answer": self.answer}, None) for _ in items]

    def warm_up(self) -> None:
        self.run([""])


Save = Callable[..., StoredModel]


def _saving(tmp_path: Path) -> Iterator[Save]:
    name = f"constant_{uuid.uuid4().hex[:8]}"
    made: list[str] = []

    def save(
        version: str, answer: str, *, stage: Any = "candidate", kind: str = "deterioration", **more: Any
    ) -> StoredModel:
        made.append(version)
        folder = tmp_path / version
        folder.mkdir()
        (folder / "answer.txt").write_text(answer)
        manifest = Manifest(
            name=name,
            version=version,
            kind=kind,
            task="test",
            framework="none",
            stage=stage,
            preprocessing_version="1",
            input_schema={},
            output_schema={},
            cacheable=True,
            **more,
        )
        return store.save(manifest, folder)

    yield save
    for model in bentoml.models.list(name) if made else ():  # some cannot be read any more
        bentoml.models.delete(model.tag)


@pytest.fixture
def save(tmp_path: Path) -> Iterator[Save]:
    """Saves a version of a model of this test's own."""
    yield from _saving(tmp_path)


@pytest.fixture
def save_another(tmp_path: Path) -> Iterator[Save]:
    """As `save`, versions of another model."""
    (tmp_path / "another").mkdir()
    yield from _saving(tmp_path / "another")


KEY = SigningKey(lambda: bytes(32))
AUTHOR, APPROVER = Signer("author", KEY), Signer("approver", KEY)


def answer_now(engine: Engine, stored: StoredModel) -> None:
    server.answer_now(engine, stored, KEY)


@pytest.fixture
async def deployments(async_engine: AsyncEngine) -> AsyncIterator[Deployments]:
    with ThreadPoolExecutor(2) as pool:
        deployments = Deployments(async_engine, {"deterioration": Constant}, pool, Limits(), KEY, refresh_s=0.05)
        yield deployments
        await deployments.close()


async def asked(deployments: Deployments, name: str) -> Any:
    inferred = await deployments.get(name).batcher.infer("")
    return inferred.prediction.result["answer"]


async def refused(deployments: Deployments, stored: StoredModel, why: NotLoaded) -> None:
    """It is looked at, not loaded, told with its reason, and nothing of its name answers."""
    await deployments.refresh()
    name, version = stored.manifest.name, stored.manifest.version
    assert not deployments.is_loaded(name, version)
    assert deployments.why_not_loaded(name, version) is why
    assert list(deployments.missing) == [name]
    with pytest.raises(ModelNotLoaded):
        deployments.get(name)


async def test_a_promoted_version_takes_over_without_a_restart(
    deployments: Deployments, engine: Engine, save: Save
) -> None:
    first = save("v1", "one")
    answer_now(engine, first)
    await deployments.open()
    name = first.manifest.name
    assert await asked(deployments, name) == "one"
    answer_now(engine, save("v2", "two"))
    await eventually(lambda: deployments.is_loaded(name, "v2"))
    assert await asked(deployments, name) == "two"
    assert not deployments.is_loaded(name, "v1")


async def test_a_version_whose_files_changed_does_not_load_and_the_old_one_goes_on(
    deployments: Deployments, engine: Engine, save: Save
) -> None:
    first, second = save("v1", "one"), save("v2", "two")
    answer_now(engine, first)
    await deployments.open()
    answer_now(engine, second)
    (second.path / "answer.txt").write_text("forged")
    await eventually(lambda: _champion(engine, second))
    await eventually(lambda: deployments.why_not_loaded(first.manifest.name, "v2") is NotLoaded.FILES)
    assert await asked(deployments, first.manifest.name) == "one"


def _spoil(engine: Engine, stored: StoredModel, fault: str) -> NotLoaded:
    """Do to a promoted version what `fault` says. Returns what should be told of it."""
    if fault == "changed":
        (stored.path / "answer.txt").write_text("forged")
    elif fault == "added":
        (stored.path / "added.json").write_text("{}")
    elif fault == "gone":
        shutil.rmtree(stored.path)
    elif fault == "no manifest":
        (stored.path / "manifest.json").write_bytes(b"\xff{")
    elif fault == "chain":
        _tamper(engine, "UPDATE model_signatures SET comment = 'other' WHERE meaning = 'approved'", stored)
    elif fault == "not signed":
        _tamper(engine, "DELETE FROM model_signatures WHERE true", stored)
    return {
        "chain": NotLoaded.NOT_SIGNED_FOR,
        "not signed": NotLoaded.NOT_SIGNED_FOR,
        "kind": NotLoaded.KIND,
        "broken": NotLoaded.DOES_NOT_RUN,
    }.get(fault, NotLoaded.FILES)


def _champion(engine: Engine, stored: StoredModel) -> bool:
    with engine.connect() as connection:
        return any(champion.version == stored.manifest.version for champion in catalog.champions(connection))


@pytest.mark.parametrize("fault", ["changed", "added", "gone", "no manifest", "chain", "kind", "not signed", "broken"])
async def test_a_version_that_cannot_be_loaded_is_missing_and_the_others_answer(
    async_engine: AsyncEngine,
    engine: Engine,
    save: Save,
    save_another: Save,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    more = {"kind": "clinical-ner"} if fault == "kind" else {}  # known, but this server has no runner for it
    good, bad = save("v1", "one"), save_another("v1", "broken" if fault == "broken" else "two", **more)
    answer_now(engine, good)
    answer_now(engine, bad)
    why = _spoil(engine, bad, fault)

    def picky(folder: Path, parameters: Mapping[str, Any]) -> Constant:
        if (folder / "answer.txt").read_text() == "broken":
            raise MemoryError("as libraries do")
        return Constant(folder, parameters)

    with ThreadPoolExecutor(2) as pool:
        deployments = Deployments(async_engine, {"deterioration": picky}, pool, Limits(), KEY, refresh_s=0.05)
        await deployments.open()
        try:
            assert await asked(deployments, good.manifest.name) == "one"
            assert deployments.why_not_loaded(bad.manifest.name, "v1") is why
            with pytest.raises(ModelNotLoaded):
                deployments.get(bad.manifest.name)
            assert f"{bad.tag} is not loaded" in caplog.text
            assert str(bad.path) not in why
            if fault != "chain":
                answer_now(engine, save_another("v2", "three"))
                await eventually(lambda: deployments.is_loaded(bad.manifest.name, "v2"))
                assert deployments.missing == {}
        finally:
            await deployments.close()


def _put_odd(path: Path, odd: str) -> None:
    """In the place of a file, or beside the files: what is none."""
    copy = path.with_name(f"{path.name}.json")
    if path.exists():
        path.rename(copy)
    if odd == "fifo":
        os.mkfifo(path)
    elif odd == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the whole path may be longer than a socket's name
        try:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path.name)
        finally:
            os.chdir(here)
    else:
        path.symlink_to({"link": copy, "dangling": "nowhere", "device": "/dev/zero", "loop": path}[odd])


@pytest.mark.parametrize("odd", ["fifo", "socket", "link", "dangling", "device", "loop"])
@pytest.mark.parametrize("place", ["manifest.json", "model.yaml", "answer.txt", "deep/er/any.json", "."])
async def test_nobody_waits_for_what_is_no_file_in_a_version(
    deployments: Deployments, engine: Engine, save: Save, save_another: Save, odd: str, place: str
) -> None:
    good, bad = save("v1", "one"), save_another("v1", "two")
    answer_now(engine, good)
    answer_now(engine, bad)
    path = bad.path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = bad.path.with_name("kept")
    shutil.copytree(bad.path, kept)
    try:
        _put_odd(path, odd)
        await asyncio.wait_for(deployments.open(), 20)
        assert await asked(deployments, good.manifest.name) == "one"
        assert deployments.why_not_loaded(bad.manifest.name, "v1") is NotLoaded.FILES
        with pytest.raises(SetupError, match=r"no plain file|has no"):
            opening.get(bad.manifest.name, "v1")
    finally:
        for each in (bad.path, bad.path.with_name("v1.json")):  # so that the store can be cleared
            if each.is_symlink() or not each.is_dir():
                each.unlink(missing_ok=True)
            else:
                shutil.rmtree(each)
        kept.rename(bad.path)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("name", "written"),
    [
        *(("kind", each) for each in ('["a"]', "{}", "5", "null", '"\\u0000"', '"deterioration\\ud800"', DEEP)),
        *(("stage", each) for each in ('["candidate"]', '"champion"', "null")),
        *(("name", each) for each in ('"another"', "[]", "7")),
        *(("task", each) for each in ("[]", '"a\\nb"', json.dumps("x" * 300))),
        *(("metrics", each) for each in ("[]", '{"a": NaN}', '{"a": 1e400}', '{"beats_baselines": "yes"}', "5", DEEP)),
        *(("training", each) for each in ('{"a": "\\u0000"}', '{"\\ud800": 1}', f'{{"a": {"[" * 90 + "]" * 90}}}')),
        *((schema, each) for schema in ("input_schema", "output_schema") for each in ("[]", "null", DEEP)),
        ("parameters", "[]"),
        ("cacheable", '"no"'),
        ("surplus", "1"),
        ("", "[]"),
        ("", DEEP),
        ("", "5"),
    ],
    ids=lambda value: f"{value:.20}",
)
def test_a_manifest_of_another_form_is_told_in_one_line(engine: Engine, save: Save, name: str, written: str) -> None:
    stored = save("v1", "one")
    file = stored.path / "manifest.json"
    whole = json.dumps({**json.loads(file.read_text()), name: "@"}).replace('"@"', written)
    file.write_text(whole if name else written)
    with pytest.raises(SetupError) as told:
        opening.get(stored.manifest.name, "v1")
    assert len(str(told.value).splitlines()) == 1
    try:
        forced = store.get(stored.manifest.name, "v1")
    except (SetupError, RecursionError):
        return
    if forced.manifest.name == stored.manifest.name:
        with pytest.raises(SetupError), engine.begin() as connection:
            catalog.register(connection, forced, AUTHOR)


def test_metrics_that_are_none_are_not_promoted_and_a_card_that_is_no_text_not_registered(
    engine: Engine, save: Save
) -> None:
    stored = save("v1", "one")
    with engine.begin() as connection:
        catalog.register(connection, stored, AUTHOR)
        catalog.approve(connection, stored, APPROVER)
        connection.exec_driver_sql("UPDATE ml_models SET metrics = '[]'")
        assert [version.version for version in catalog.versions(connection, stored.manifest.name)] == ["v1"]
    with pytest.raises(SetupError, match="metrics"), engine.begin() as connection:
        catalog.promote(connection, stored.manifest.name, "v1", by=APPROVER)
    for content in (b"\xff\xfe", b"a\x00b"):
        other = save(f"v{len(content)}x", "one")
        (other.path / "model_card.md").write_bytes(content)
        with pytest.raises(SetupError, match="model card"), engine.begin() as connection:
            catalog.register(connection, opening.get(other.manifest.name, other.manifest.version), AUTHOR)


async def test_a_server_without_any_model_says_how_to_get_one_and_takes_it(
    deployments: Deployments, engine: Engine, save: Save, caplog: pytest.LogCaptureFixture
) -> None:
    await deployments.open()
    assert deployments.active == []
    assert "followup train" in caplog.text
    stored = save("v1", "one")
    answer_now(engine, stored)
    await eventually(lambda: deployments.is_loaded(stored.manifest.name, "v1"))


def test_a_kind_that_no_server_has_a_runner_for_is_neither_registered_nor_promoted(engine: Engine, save: Save) -> None:
    stored = save("v1", "one", kind="constant")
    with pytest.raises(SetupError, match="no server has a runner"), engine.begin() as connection:
        catalog.register(connection, stored, AUTHOR)
    known = save("v2", "one")
    with engine.begin() as connection:
        catalog.register(connection, known, AUTHOR)
        catalog.approve(connection, known, APPROVER)
        connection.exec_driver_sql("UPDATE ml_models SET kind = 'constant'")
    with pytest.raises(SetupError, match="no server has a runner"), engine.begin() as connection:
        catalog.promote(connection, known.manifest.name, "v2", by=APPROVER)


def test_the_kinds_that_may_be_promoted_are_those_that_a_server_has_runners_for() -> None:
    settings = load_settings(
        database_url="postgresql://x@/x?host=/x", encryption_key="x", cognito_issuer="x", cognito_client_ids="x"
    )
    assert set(_runners(settings)) == KINDS


async def test_unknown_and_not_loaded_are_told_apart(deployments: Deployments, engine: Engine, save: Save) -> None:
    stored = save("v1", "one")
    answer_now(engine, stored)
    await deployments.open()
    with pytest.raises(UnknownModel):
        deployments.get("another")
    deployments._active.clear()
    with pytest.raises(ModelNotLoaded):
        deployments.get(stored.manifest.name)


def test_one_version_answers_at_a_time_and_versions_are_never_overwritten(engine: Engine, save: Save) -> None:
    first, second = save("v1", "one"), save("v2", "two")
    answer_now(engine, first)
    answer_now(engine, second)
    with engine.connect() as connection:
        aliases = {version.version: version.alias for version in catalog.versions(connection, first.manifest.name)}
    assert aliases == {"v1": None, "v2": "champion"}
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.exec_driver_sql("UPDATE ml_models SET alias = 'champion'")
    (first.path / "answer.txt").write_text("other")
    changed = store.get(first.manifest.name, "v1")
    with pytest.raises(SetupError, match="never overwritten"), engine.begin() as connection:
        catalog.register(connection, changed, AUTHOR)


def test_an_experimental_version_cannot_become_champion(engine: Engine, save: Save) -> None:
    stored = save("v1", "one", stage="experimental")
    with pytest.raises(SetupError, match="experimental"):
        answer_now(engine, stored)
    with pytest.raises(UnknownModel), engine.begin() as connection:
        catalog.promote(connection, stored.manifest.name, "v9", by=APPROVER)


def test_a_version_that_beats_no_baseline_needs_a_signed_reason(engine: Engine, save: Save) -> None:
    stored = save("v1", "one", metrics={"beats_baselines": False})
    name = stored.manifest.name
    with engine.begin() as connection:
        catalog.register(connection, stored, AUTHOR)
        catalog.approve(connection, stored, APPROVER)
    for no_reason in ("", "  "):
        with pytest.raises(SetupError, match="not shown to be better"), engine.begin() as connection:
            catalog.promote(connection, name, "v1", by=APPROVER, override=no_reason)
    with pytest.raises(SetupError, match="not a reason"), engine.begin() as connection:
        catalog.promote(connection, name, "v1", by=APPROVER, override=CHALLENGER)
    with engine.begin() as connection:
        catalog.promote(connection, name, "v1", by=APPROVER, alias="challenger")  # it answers nobody
        catalog.promote(connection, name, "v1", by=APPROVER, override="the only one that explains itself")
        (*_, act) = acts_on(connection, name, "v1")
    assert (act.meaning, act.comment) == ("promoted", "the only one that explains itself")


def test_two_versions_of_the_same_files_have_one_digest(save: Save) -> None:
    first, second = save("v1", "one", run={"minutes": 1.5}), save("v2", "one", run={"minutes": 2.5})
    assert first.digest == second.digest
    assert (first.manifest.version, second.manifest.version) == ("v1", "v2")
    assert (first.manifest.run, second.manifest.run) == ({"minutes": 1.5}, {"minutes": 2.5})
    assert first.manifest.created_at


def test_a_file_that_would_have_to_be_unpickled_is_not_stored(tmp_path: Path, save: Save) -> None:
    stored = save("v1", "one")
    folder = tmp_path / "bad"
    folder.mkdir()
    for name in ("model.pkl", "model.pt", "model.joblib", "model.bin"):
        (folder / name).write_bytes(b"\x80\x04.")
        with pytest.raises(SetupError, match=name):
            store.save(stored.manifest, folder)
        (folder / name).unlink()


def test_a_version_travels_between_stores_with_its_digest(tmp_path: Path, save: Save) -> None:
    stored = save("v1", "one")
    exported = bentoml.models.export_model(stored.tag, str(tmp_path / "exported.bentomodel"))
    bentoml.models.delete(stored.tag)
    with pytest.raises(SetupError):
        store.get(stored.manifest.name, "v1")
    bentoml.models.import_model(exported)
    assert store.get(stored.manifest.name, "v1", expected_digest=stored.digest).digest == stored.digest


@pytest.mark.requirement("P4")
async def test_no_version_answers_before_somebody_else_approved_it(
    deployments: Deployments, engine: Engine, save: Save
) -> None:
    stored = save("v1", "one")
    name = stored.manifest.name
    with engine.begin() as connection:
        catalog.register(connection, stored, AUTHOR)
    with pytest.raises(SetupError, match="not approved"), engine.begin() as connection:
        catalog.promote(connection, name, "v1", by=APPROVER)
    with pytest.raises(SetupError, match="their own"), engine.begin() as connection:
        catalog.approve(connection, stored, AUTHOR)
    with engine.begin() as connection:  # somebody with the database promotes it all the same
        connection.exec_driver_sql("UPDATE ml_models SET alias = 'champion'")
    await refused(deployments, stored, NotLoaded.NOT_SIGNED_FOR)
    with engine.begin() as connection:
        catalog.approve(connection, stored, APPROVER)
    await refused(deployments, stored, NotLoaded.NOT_SIGNED_FOR)
    with engine.begin() as connection:
        catalog.promote(connection, name, "v1", by=APPROVER)
    await deployments.open()
    assert await asked(deployments, name) == "one"


@pytest.mark.requirement("P5")
async def test_an_approval_holds_for_the_files_it_was_given_for_and_for_nothing_else(
    deployments: Deployments, engine: Engine, save: Save
) -> None:
    first, second = save("v1", "one"), save("v2", "two")
    answer_now(engine, first)
    with engine.begin() as connection:
        catalog.register(connection, second, AUTHOR)
    act = next(act for act in _acts(engine, first) if act.meaning == "approved")
    assert (act.signer, act.model_digest) == ("approver", first.digest)
    assert KEY.signed(act.signature, act.statement)
    forgeries = {
        "moved to another version": {"model_version": "v2"},
        "moved, with its digest": {"model_version": "v2", "model_digest": second.digest},
        "another signer": {"model_version": "v2", "model_digest": second.digest, "signer": "somebody"},
        "another key": {"model_version": "v2", "model_digest": second.digest, "signature": bytes(64)},
    }
    columns = ("model_name", "model_version", "model_digest", "meaning", "signer", "signed_at", "comment", "signature")
    for changes in forgeries.values():
        values = {column: getattr(act, column) for column in columns} | changes
        with pytest.raises(SetupError, match="is broken"), engine.begin() as connection:
            connection.execute(insert(ModelSignature).values(values))
            catalog.promote(connection, first.manifest.name, "v2", by=APPROVER)  # and all of it is rolled back
    with pytest.raises(SetupError, match="digest differs"), engine.begin() as connection:
        (second.path / "answer.txt").write_text("changed after it was registered")
        catalog.approve(connection, store.get(first.manifest.name, "v2"), APPROVER)


@pytest.mark.requirement("P4")
async def test_a_rejected_version_is_not_loaded_again_and_the_one_before_can_come_back(
    deployments: Deployments, engine: Engine, save: Save
) -> None:
    first, second = save("v1", "one"), save("v2", "two")
    name = first.manifest.name
    answer_now(engine, first)
    answer_now(engine, second)
    with engine.begin() as connection:
        catalog.approve(connection, second, APPROVER, meaning="rejected", comment="wrong on short notes")
    await deployments.refresh()
    assert deployments.active == []
    with engine.begin() as connection:
        assert catalog.roll_back(connection, name, by=APPROVER).version == "v1"
    await deployments.open()
    assert await asked(deployments, name) == "one"
    meanings = [act.meaning for act in _acts(engine, first)]
    assert meanings == ["registered", "approved", "promoted", "rolled-back"]


@pytest.mark.requirement("P4")
async def test_who_is_the_author_says_their_signature_and_not_the_catalog(engine: Engine, save: Save) -> None:
    stored = save("v1", "one")
    with engine.begin() as connection:
        catalog.register(connection, stored, AUTHOR)
        connection.exec_driver_sql("UPDATE ml_models SET created_by = 'somebody'")
    with pytest.raises(SetupError, match="their own"), engine.begin() as connection:
        catalog.approve(connection, stored, AUTHOR)


@pytest.mark.requirement("P4")
async def test_a_version_that_nobody_signed_for_is_signed_for_again_before_it_is_approved(
    engine: Engine, save: Save
) -> None:
    stored = save("v1", "one")
    with engine.begin() as connection:
        catalog.register(connection, stored, AUTHOR)
    _tamper(engine, "DELETE FROM model_signatures")
    with pytest.raises(SetupError, match="models register"), engine.begin() as connection:
        catalog.approve(connection, stored, APPROVER)
    with engine.begin() as connection:
        catalog.register(connection, stored, AUTHOR)
        catalog.register(connection, stored, AUTHOR)
    assert [act.meaning for act in _acts(engine, stored)] == ["registered"]
    answer_now(engine, stored)


def _tamper(engine: Engine, statement: str, only: StoredModel | None = None) -> None:
    """What somebody with the owner's password may do."""
    if only is not None:
        statement += f" AND model_name = '{only.manifest.name}'"
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE model_signatures DISABLE TRIGGER USER")
        connection.exec_driver_sql(statement)
        connection.exec_driver_sql("ALTER TABLE model_signatures ENABLE TRIGGER USER")


@pytest.mark.requirement("P5")
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM model_signatures WHERE meaning = 'rejected'",
        "DELETE FROM model_signatures WHERE id = (SELECT min(id) FROM model_signatures)",
        "UPDATE model_signatures SET meaning = 'approved' WHERE meaning = 'rejected'",
        "UPDATE model_signatures SET signer = 'somebody' WHERE meaning = 'registered'",
    ],
)
async def test_an_act_that_was_taken_out_or_changed_breaks_the_chain_and_nothing_loads(
    deployments: Deployments, engine: Engine, save: Save, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = save("v1", "one"), save("v2", "two")
    answer_now(engine, first)
    answer_now(engine, second)
    with engine.begin() as connection:
        catalog.approve(connection, second, APPROVER, meaning="rejected")
        catalog.roll_back(connection, first.manifest.name, by=APPROVER)
    _tamper(engine, statement)
    with caplog.at_level("ERROR"):
        await refused(deployments, first, NotLoaded.NOT_SIGNED_FOR)
    assert "is broken" in caplog.text


@pytest.mark.requirement("P4")
async def test_an_alias_that_was_written_into_the_database_does_not_let_an_older_version_answer(
    deployments: Deployments, engine: Engine, save: Save
) -> None:
    first, second = save("v1", "one"), save("v2", "two")
    answer_now(engine, first)
    answer_now(engine, second)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE ml_models SET alias = NULL")
        connection.exec_driver_sql("UPDATE ml_models SET alias = 'champion' WHERE version = 'v1'")
    await refused(deployments, first, NotLoaded.NOT_SIGNED_FOR)


@pytest.mark.requirement("P4")
@pytest.mark.parametrize("alias_kept", [False, True])
async def test_a_running_champion_that_is_rejected_answers_no_longer(
    deployments: Deployments, engine: Engine, save: Save, caplog: pytest.LogCaptureFixture, alias_kept: bool
) -> None:
    stored = save("v1", "one")
    name = stored.manifest.name
    answer_now(engine, stored)
    await deployments.open()
    with engine.begin() as connection:
        catalog.approve(connection, stored, APPROVER)  # a second approval takes nothing away
    await asyncio.sleep(0.2)
    assert await asked(deployments, name) == "one"
    with engine.begin() as connection:
        catalog.approve(connection, stored, Signer("another", KEY), meaning="rejected")
        if alias_kept:
            connection.exec_driver_sql("UPDATE ml_models SET alias = 'champion'")
    await eventually(lambda: not deployments.active)
    with pytest.raises(ModelNotLoaded):
        deployments.get(name)
    assert "answers no longer" in caplog.text
    with engine.begin() as connection:
        assert catalog.champions(connection) == [] or alias_kept
    with engine.begin() as connection:
        catalog.approve(connection, stored, APPROVER)
        catalog.promote(connection, name, "v1", by=APPROVER)
    await eventually(lambda: deployments.is_loaded(name, "v1"))


def _acts(engine: Engine, stored: StoredModel) -> Sequence[Signature]:
    with engine.connect() as connection:
        return acts_on(connection, stored.manifest.name, stored.manifest.version)


async def test_a_version_that_does_not_run_leaves_the_old_one_and_does_not_end_the_following(
    async_engine: AsyncEngine, engine: Engine, save: Save
) -> None:
    def picky(folder: Path, parameters: Mapping[str, Any]) -> Constant:
        if (folder / "answer.txt").read_text() == "broken":
            raise RuntimeError("as libraries do")
        return Constant(folder, parameters)

    first = save("v1", "one")
    name = first.manifest.name
    answer_now(engine, first)
    with ThreadPoolExecutor(2) as pool:
        deployments = Deployments(async_engine, {"deterioration": picky}, pool, Limits(), KEY, refresh_s=0.05)
        await deployments.open()
        answer_now(engine, save("v2", "broken"))
        await asyncio.sleep(0.3)
        assert await asked(deployments, name) == "one"
        answer_now(engine, save("v3", "three"))
        await eventually(lambda: deployments.is_loaded(name, "v3"))
        assert await asked(deployments, name) == "three"
        await deployments.close()
