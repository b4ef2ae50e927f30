"""What the first servers sealed, exported and anchored verifies for ever: files of theirs, kept as they were."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from audit import verify

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
KEY = (GOLDEN / "verifier-1.key").read_text().strip()
ANCHORS = GOLDEN / "anchors-1"
DIGESTS = {
    "trail-1.ndjson": "3a0e7becc2093a91695d656a85398592a7c161a73821ad6a121aac33fb257c9f",
    "proof-1.json": "1c172bd0b4711d1a35736ddabce51ed3e85501cc7e8b47a882286a46d5badef0",
    "consistency-1.json": "40c46aa1cd236aaf9efd4c04e5e30fc0c7c92fe2b3c9b7d50ba1417a5439165f",
}


@pytest.mark.parametrize(("name", "digest"), DIGESTS.items())
def test_a_file_of_the_first_format_is_what_it_was_and_holds(
    name: str, digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == digest
    assert verify.main([str(GOLDEN / name), "--key", KEY, "--anchors", str(ANCHORS)]) == 0
    assert capsys.readouterr().out.endswith("Everything holds.\n")


def test_the_export_of_the_first_format_holds_with_its_archive_and_its_anchors() -> None:
    with (GOLDEN / "trail-1.ndjson").open("rb") as lines:
        report = verify.verify(lines, KEY, verify.read_anchors(ANCHORS))
    assert report.findings == []
    assert (report.leaves, report.checkpoints, report.anchors) == (47, 6, 3)
    assert (report.archived, report.not_sealed_yet) == (6, 2)


@pytest.mark.parametrize("name", DIGESTS)
def test_a_byte_of_the_first_format_that_is_changed_is_found(name: str, tmp_path: Path) -> None:
    """Each hash, path and signature: one digit of Base64 in the middle of the file."""
    changed = tmp_path / name
    shutil.copy(GOLDEN / name, changed)
    text = changed.read_text()
    for mark in {"trail-1.ndjson": ('"hash":"', '"input":"'), "proof-1.json": ('"leaf_hash": "', 'proof": [\n  "')}.get(
        name, ('proof": [\n  "',)
    ):
        position = text.index(mark) + len(mark) + 3
        other = "A" if text[position] != "A" else "B"
        changed.write_text(text[:position] + other + text[position + 1 :])
        assert verify.main([str(changed), "--key", KEY]) == 1, mark


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_variable_of_the_shell_is_no_key(empty: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(GOLDEN / "trail-1.ndjson"), "--key", empty]) == verify.NO_KEY
    assert "CAUTION" in capsys.readouterr().out
    assert verify.main([str(GOLDEN / "proof-1.json"), "--key", empty]) == verify.NOT_LOOKED_AT


def test_a_file_in_which_nothing_is_signed_is_not_said_to_hold(tmp_path: Path) -> None:
    lines = (GOLDEN / "trail-1.ndjson").read_text().splitlines()
    header = {**json.loads(lines[0]), "leaves": 0}
    end = {**json.loads(lines[-1]), "leaves": 0, "unsealed": 0}
    nothing = tmp_path / "nothing.ndjson"
    nothing.write_text(f"{json.dumps(header)}\n{json.dumps(end)}\n")
    assert verify.main([str(nothing), "--key", KEY]) == verify.NOT_LOOKED_AT
    assert verify.main([str(nothing), "--key", KEY, "--anchors", str(ANCHORS)]) == verify.DOES_NOT_HOLD


def test_an_answer_is_compared_whole_or_said_not_to_be() -> None:
    item = {"prediction_id": "p-1", "id": "a", "commitment_nonce": "00" * 16}
    batch = {"model": {"name": "m"}, "items": [{"prediction_id": "p-2"}, item], "metadata": {}}
    assert verify.answer_to(item, "p-1") is item
    assert verify.answer_to(batch, "p-1") is item
    for wrapped in (
        {"prediction_id": "zzz", "entities": {"SYMPTOM": "FORGED"}, "items": [item]},
        {"items": [item], "notice": "FORGED", "model": {}},
        {"items": [item], "prediction_id": "p-1"},
        {"items": [item, item], "model": {}, "metadata": {}},
        {"items": [{"prediction_id": "p-2"}]},
        {"items": {"0": item}},
    ):
        with pytest.raises((verify.Malformed, KeyError)):  # the caller takes both
            verify.commitment_to(verify.answer_to(wrapped, "p-1"))
