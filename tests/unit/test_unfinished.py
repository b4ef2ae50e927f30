"""An interrupted training run goes on and ends as it would have; what cannot be read is as good as nothing."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clinical.entities import ASSERTIONS, LABELS
from registry.store import digest_of
from training.deterioration.datasets import Split
from training.deterioration.fit import FitConfig, fit
from training.ner import corpus, encoder
from training.ner import fit as ner_fit
from training.progress import silent
from training.train_deterioration_model import NAME, Rows, TrainingConfig, make_model
from training.train_logistic_model import make_model as make_logistic
from training.unfinished import Unfinished

QUICK = FitConfig(epochs=4, hidden=8, members=2)


class Interrupted(Exception):
    """The power went."""


def interrupt_after(steps: int):  # type: ignore[no-untyped-def]
    def progress(what: str, done: int, total: int) -> None:
        if what in {"fitting the network", "fine-tuning"} and done >= steps:
            raise Interrupted

    return progress


@pytest.mark.parametrize("epochs_done", [1, 3])
def test_a_network_that_was_interrupted_ends_as_it_would_have(split: Split, tmp_path: Path, epochs_done: int) -> None:
    whole = fit(split, QUICK, silent)
    unfinished = Unfinished.of(tmp_path, data="x")
    with pytest.raises(Interrupted):
        fit(split, QUICK, interrupt_after(epochs_done), unfinished)
    assert unfinished.path is not None
    assert unfinished.path.exists()
    seen: list[int] = []
    again = fit(split, QUICK, lambda what, done, total: seen.append(done), unfinished)
    assert seen == list(range(epochs_done + 1, 5))
    assert (again.network.predict(split.test.values) == whole.network.predict(split.test.values)).all()
    assert list(tmp_path.iterdir()) == []


def test_the_entity_recogniser_goes_on_too(tmp_path: Path) -> None:
    lines = corpus.load().training[:24]
    origin = encoder.find()
    config = ner_fit.FitConfig(epochs=2, threads=1, average_from=0.3)

    def made(*interruptions: int) -> dict[str, torch.Tensor]:
        unfinished = Unfinished.of(tmp_path, interruptions=interruptions)
        for steps in (*interruptions, 0):
            model = encoder.token_classifier(origin, (*LABELS, *ASSERTIONS), seed=1)
            progress = interrupt_after(steps) if steps else silent
            try:
                ner_fit.fit(model, lines, encoder.tokenizer(origin), config, progress, unfinished=unfinished)
            except Interrupted:
                continue
        return dict(model.state_dict())

    whole, continued = made(), made(5)
    assert all(torch.equal(whole[name], continued[name]) for name in whole)


@pytest.mark.parametrize("junk", [b"", b"PK\x03\x04", b"\x80\x04cos\nsystem\n(S'true'\ntR."])
def test_a_state_that_cannot_be_read_is_as_good_as_none(tmp_path: Path, junk: bytes) -> None:
    unfinished = Unfinished.of(tmp_path, data="x")
    assert unfinished.path is not None
    unfinished.path.write_bytes(junk)
    assert unfinished.load() is None
    unfinished.done()
    unfinished.done()


def test_other_data_other_settings_other_place(tmp_path: Path) -> None:
    paths = {Unfinished.of(tmp_path, data=data, seed=seed).path for data in "ab" for seed in (1, 2)}
    assert len(paths) == 4
    assert Unfinished.of(None, data="a") == Unfinished()


@pytest.mark.parametrize("make", [make_model, make_logistic])
def test_the_same_data_and_seed_give_the_same_digest(make, rows: Rows, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config = TrainingConfig(fit=QUICK, ceiling_patients=50, ceiling_days=40)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        manifest = make(tmp_path / name, rows, config)
        assert manifest.run["minutes"] >= 0
        assert manifest.run["peak_memory_mib"] > 50
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "two")
    if make is make_model:
        assert load_file(tmp_path / "one" / f"{NAME}.safetensors")
