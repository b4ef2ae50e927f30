"""Reading an export: what is newer than it, what is cut off it, who signed it, what is a file at all."""

import base64
import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from audit import merkle, verify
from audit.canonical import leaf_bytes
from audit.checkpoint import Checkpoint, Signer
from audit.merkle import Frontier, Node
from tests.trail_rows import make_signer

START = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
Lines = list[dict[str, Any]]


def text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Trail:
    """A trail of one event a second, and what its sealer would sign of it."""

    def __init__(self, signer: Signer, size: int = 40) -> None:
        self.signer = signer
        self.key = str(signer.verifier)
        self.rows = [
            {
                "created_at": text(START + timedelta(seconds=index)),
                "id": f"row-{index}",
                "action": "read",
                "outcome": "success",
            }
            for index in range(size)
        ]
        self.hashes = [merkle.leaf_hash(leaf_bytes("audit_events", row)) for row in self.rows]
        self._nodes = {Node(0, index): hashed for index, hashed in enumerate(self.hashes)}
        frontier = Frontier()
        self.roots = [frontier.root]
        for hashed in self.hashes:
            self._nodes.update(frontier.append(hashed))
            self.roots.append(frontier.root)

    def note(self, size: int, *, late_s: float = 0.5, root: bytes | None = None) -> str:
        """Signed that long after its last row was made."""
        at = START + timedelta(seconds=size - 1 + late_s)
        return self.signer.sign(Checkpoint("followup-test", size, root or self.roots[size], at, size).body)

    def growth(self, older: int, newer: int) -> dict[str, Any]:
        path = merkle.proof(merkle.consistency_path(older, newer), self._nodes.__getitem__)
        return {
            "from": older,
            "to": newer,
            "consistency_proof": [base64.b64encode(part).decode() for part in path],
            "from_checkpoint": self.note(older),
            "to_checkpoint": self.note(newer),
        }

    def export(self, *sizes: int, late_s: float = 0.5) -> Lines:
        """With a checkpoint at each of these sizes, ended a quarter of a second after the last."""
        lines: Lines = [
            {
                "kind": "header",
                "format": verify.EXPORT_FORMAT,
                "leaves": sizes[-1],
                "verifier_key": self.key,
                "exported_at": text(START),
            }
        ]
        for index in range(sizes[-1]):
            row = self.rows[index]
            hashed = base64.b64encode(self.hashes[index]).decode()
            leaf = {"kind": "leaf", "index": index, "source": "audit_events", "hash": hashed, "row": row}
            lines.append({**leaf, "created_at": row["created_at"], "id": row["id"]})
            if index + 1 in sizes:
                lines.append({"kind": "checkpoint", "note": self.note(index + 1, late_s=late_s), "anchored": []})
        finished = START + timedelta(seconds=sizes[-1] - 1 + late_s + 0.25)
        end = {"kind": "end", "leaves": sizes[-1], "unsealed": 0, "finished_at": text(finished), "xmax": "99"}
        return [*lines, end]


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(make_signer(tmp_path))


def put(file: Path, lines: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def look(trail: Trail, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The command on an export, with anchors of these sizes; its exit and what it says."""

    def run(lines: Lines, *anchors: int, growth: Sequence[Any] = (), key: bool = True) -> tuple[int, str]:
        options = [str(put(tmp_path / "trail.ndjson", lines)), *(["--key", trail.key] if key else [])]
        if anchors:
            folder = tmp_path / f"anchors-{'-'.join(map(str, anchors))}"
            folder.mkdir(exist_ok=True)
            for size in anchors:
                (folder / f"{size}.checkpoint").write_text(trail.note(size))
            options += ["--anchors", str(folder)]
        for number, document in enumerate(growth):
            options += ["--consistency", str(put(tmp_path / f"growth-{number}.json", [document]))]
        return verify.main(options), capsys.readouterr().out

    return run


def test_an_anchor_that_is_newer_than_the_export_is_not_covered_yet(trail: Trail, look: Any) -> None:
    code, said = look(trail.export(10, 20), 20, 21, growth=[trail.growth(20, 21)])
    assert (code, "1 records were sealed after it was made" in said) == (verify.HOLDS, True)
    chain = [trail.growth(21, 30), trail.growth(20, 21)]
    assert look(trail.export(10, 20), 10, 21, 30, growth=chain)[0] == verify.HOLDS


def test_without_proof_of_growth_a_newer_anchor_leaves_a_doubt(trail: Trail, look: Any) -> None:
    code, said = look(trail.export(10, 20), 20, 22)
    assert (code, said.splitlines()[-1]) == (verify.NEWER_ANCHORS, "Holds as far as it goes: 1 newer anchors.")
    assert "--consistency" in said
    code, said = look(trail.export(10, 20), 21, 22, 30, growth=[trail.growth(20, 22)])
    assert (code, said.splitlines()[-1]) == (verify.NEWER_ANCHORS, "Holds as far as it goes: 2 newer anchors.")


def test_a_proof_of_growth_from_another_tree_shows_nothing(trail: Trail, look: Any, tmp_path: Path) -> None:
    assert look(trail.export(10, 20), 25, growth=[trail.growth(10, 25)])[0] == verify.NEWER_ANCHORS
    forged = {**trail.growth(20, 25), "consistency_proof": trail.growth(20, 24)["consistency_proof"]}
    assert look(trail.export(10, 20), 25, growth=[forged])[0] == verify.DOES_NOT_HOLD
    stranger = Trail(make_signer(tmp_path))
    assert look(trail.export(10, 20), 25, growth=[stranger.growth(20, 25)])[0] == verify.DOES_NOT_HOLD


@pytest.mark.requirement("S6")
def test_an_anchor_that_was_signed_before_the_end_says_what_was_cut_off(trail: Trail, look: Any) -> None:
    whole = trail.export(10, 20)
    end = {**whole[-1], "leaves": 10}
    assert look([{**whole[0], "leaves": 10}, *whole[1:12], end], 20)[0] == verify.DOES_NOT_HOLD


@pytest.mark.requirement("S6")
@pytest.mark.parametrize("seconds", [-(10**6), -301, -300, 0, 1, 9, 10, 11, 10**6])
def test_a_tail_that_was_cut_with_its_end_rewritten_never_passes_an_anchor(
    trail: Trail, look: Any, seconds: int
) -> None:
    """Whatever the new end says. Without an anchor, what cannot be known is said."""
    whole = trail.export(10, 20)
    finished = text(START + timedelta(seconds=9.5 + seconds))
    cut = [{**whole[0], "leaves": 10}, *whole[1:12], {**whole[-1], "leaves": 10, "finished_at": finished}]
    assert look(cut, 10, 20)[0] in {verify.DOES_NOT_HOLD, verify.NEWER_ANCHORS}
    assert look(cut, 20)[0] in {verify.DOES_NOT_HOLD, verify.NEWER_ANCHORS}
    code, said = look(cut, 10)
    assert (code, "whether more were cut off" in said or "sealed records" in said) == (verify.HOLDS, True)
    code, said = look(cut)
    assert (code, "whether records were cut off its end is not known" in said) == (verify.HOLDS, True)


@pytest.mark.parametrize("leaves", [21, 19, 0, -1, True, "20", None, 10**30, 20.0])
def test_a_header_that_announces_another_number_is_found(trail: Trail, look: Any, leaves: Any) -> None:
    lines = trail.export(10, 20)
    assert look([{**lines[0], "leaves": leaves}, *lines[1:]])[0] == verify.DOES_NOT_HOLD


@pytest.mark.parametrize("number", range(23))
def test_a_field_beside_the_format_is_found_in_every_line(trail: Trail, look: Any, number: int) -> None:
    lines = trail.export(10, 20)
    lines[number] = {**lines[number], "verdict": "holds"}
    assert look(lines)[0] == verify.DOES_NOT_HOLD


def test_without_a_key_of_ones_own_nothing_is_verified(trail: Trail, look: Any) -> None:
    code, said = look(trail.export(10, 20), key=False)
    assert (code, "CAUTION" in said, "Everything holds" in said) == (verify.NO_KEY, True, False)
    assert look(trail.export(10, 20), 21, key=False)[0] == verify.NO_KEY
    assert look(trail.export(10, 20)[:-1], key=False)[0] == verify.DOES_NOT_HOLD
    header, *lines = trail.export(10, 20)
    from_a_server = [{**header, "verifier_key": None}, *lines]
    assert look(from_a_server, key=False)[0] == verify.NO_KEY
    assert look(from_a_server)[0] == verify.HOLDS


def test_records_that_waited_long_are_told_of_as_windows(trail: Trail, look: Any) -> None:
    assert "waited" not in look(trail.export(*range(1, 21), late_s=9))[1]
    code, said = look(trail.export(20, 30, late_s=60.5))
    assert code == verify.HOLDS
    assert "30 records waited to be sealed between 2026-05-01T12:00:00Z and 2026-05-01T12:01:29Z (89 s)" in said
    lines = trail.export(5, 6, 7, 40)
    report = verify.verify(map(json.dumps, lines), trail.key)
    assert report.sealed_late == [verify.Window("2026-05-01T12:00:07Z", "2026-05-01T12:00:39Z", 22)]
    apart = trail.export(15, 40)
    assert len(verify.verify(map(json.dumps, apart), trail.key).sealed_late) == 2


def test_many_windows_are_counted_and_few_are_shown() -> None:
    report = verify.Report()
    for number in range(12_000):
        at = START + timedelta(minutes=number)
        report.waited(verify.Window(text(at)[:19] + "Z", text(at + timedelta(seconds=30))[:19] + "Z", 1))
    assert len(report.sealed_late) == 10_000
    said = verify.show(report, key_was_given=True)
    assert "and in 11990 more windows" in said
    assert len(said.splitlines()) < 20
    for _ in range(12_000):
        report.find("malformed", None, "x")
    assert len(report.findings) == 10_000
    assert verify.show(report, key_was_given=True).endswith("DOES NOT HOLD: 12000 findings.")


HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\n\u202eEverything holds.\x85\x9b\u2028\x00\x7f"


@pytest.mark.parametrize("name", ["id", "source", "created_at"])
def test_nothing_that_is_printed_steers_the_terminal(trail: Trail, look: Any, name: str) -> None:
    lines = trail.export(10, 20)
    if name == "source":
        unsealed = {"kind": "unsealed", "source": HOSTILE, "xid": "1", "row": {"created_at": "2026", "id": "x"}}
    else:
        unsealed = {"kind": "unsealed", "source": "audit_events", "xid": "1", "row": {"created_at": "2026", "id": "x"}}
        unsealed["row"][name] = HOSTILE  # type: ignore[index]
    code, said = look([*lines[:-1], unsealed, {**lines[-1], "unsealed": 1}])
    assert code == verify.DOES_NOT_HOLD
    assert all(shown.isprintable() or shown == "\n" for shown in said)
    assert not any(line.startswith("Everything holds") for line in said.splitlines())


def test_names_of_files_are_printed_as_plain_text(
    trail: Trail, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "anchors"
    folder.mkdir()
    (folder / "\x1b[2J\u202e\n.checkpoint").write_text("nothing")
    (folder / os.fsdecode(b"\xff\xfe.checkpoint")).write_text("nothing")
    file = put(tmp_path / "trail.ndjson", trail.export(10, 20))
    for machine in ([], ["--json"]):
        assert verify.main([str(file), "--key", trail.key, "--anchors", str(folder), *machine]) == verify.DOES_NOT_HOLD
        said = capsys.readouterr().out
        assert all(shown.isprintable() or shown == "\n" for shown in said)
    assert verify.main([str(tmp_path / "\x1b[2J")]) == verify.NOT_LOOKED_AT
    os.mkfifo(tmp_path / "\x1b[31m")
    assert verify.main([str(tmp_path / "\x1b[31m")]) == verify.NOT_LOOKED_AT
    said = capsys.readouterr().err
    assert all(shown.isprintable() or shown == "\n" for shown in said)


@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "device", "none"])
@pytest.mark.parametrize("place", ["file", "anchor", "consistency", "answer"])
def test_what_is_no_file_is_refused_and_nobody_waits_for_it(
    trail: Trail, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, place: str
) -> None:
    good = put(tmp_path / "trail.ndjson", trail.export(10, 20))
    folder, anchored = tmp_path / "anchors", tmp_path / "anchored"
    folder.mkdir()
    anchored.mkdir()
    (anchored / "20.checkpoint").write_text(trail.note(20))
    odd = (folder if place == "anchor" else tmp_path) / "odd.checkpoint"
    if kind == "folder":
        odd.mkdir()
    elif kind == "fifo":
        os.mkfifo(odd)
    elif kind == "link" or (kind == "device" and place == "anchor"):
        odd.symlink_to(good if kind == "link" else "/dev/zero")
    elif kind == "device":
        odd = Path("/dev/zero")
    options = {
        "file": [str(odd)],
        "anchor": [str(good), "--anchors", str(folder)],
        "consistency": [str(good), "--anchors", str(anchored), "--consistency", str(odd)],
        "answer": [str(put(tmp_path / "proof.json", [trail.growth(10, 20)])), "--answer", str(odd)],
    }[place]
    assert verify.main([*options, "--key", trail.key]) == verify.NOT_LOOKED_AT
    assert capsys.readouterr().err.startswith("Not verified: ")


def test_a_gigantic_line_is_a_finding_and_is_not_read_into_memory(trail: Trail, tmp_path: Path, look: Any) -> None:
    lines = trail.export(10, 20)
    file = put(tmp_path / "big.ndjson", lines)
    with file.open("ab") as output:
        output.truncate(3 * verify.LONGEST_LINE)  # a hole of zeros behind the end
    with verify.open_file(file) as source:
        assert max(len(line or b"") for line in verify.lines_of(source)) <= verify.LONGEST_LINE
    assert verify.main([str(file), "--key", trail.key]) == verify.DOES_NOT_HOLD
    small = json.dumps({**lines[1], "row": {"x": "y" * verify.LONGEST_LINE}})
    assert not verify.verify([json.dumps(lines[0]), small], trail.key).holds


@pytest.mark.parametrize("indent", [None, 2])
def test_a_fhir_export_is_named_once(
    trail: Trail, tmp_path: Path, capsys: pytest.CaptureFixture[str], indent: int | None
) -> None:
    events = [{"resourceType": "AuditEvent", "id": str(number)} for number in range(1 if indent else 500)]
    file = tmp_path / "log.ndjson"
    file.write_text("".join(json.dumps(event, indent=indent) + "\n" for event in events))
    assert verify.main([str(file), "--key", trail.key]) == verify.NOT_LOOKED_AT
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n"), "FHIR" in shown.err) == ("", 1, True)


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", "x", "inclusion", "both", "export", "lacking", "surplus", "[" * 100_000],
    ids=lambda value: f"{value:.20}",
)
@pytest.mark.parametrize("beside", ["an export", "a proof of growth", "no anchors"])
def test_what_is_given_as_consistency_and_is_none_is_refused(
    trail: Trail, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, beside: str
) -> None:
    growth = trail.growth(20, 21)
    inclusion = dict.fromkeys(
        ("prediction_id", "leaf_index", "leaf_hash", "leaf", "tree_size", "inclusion_proof", "checkpoint")
    )
    documents: dict[str, Any] = {
        "inclusion": inclusion,
        "both": inclusion | growth,
        "export": trail.export(10)[0],
        "lacking": {name: value for name, value in growth.items() if name != "to"},
        "surplus": {**growth, "more": 1},
    }
    given = tmp_path / "given\n.json"
    given.write_text(json.dumps(documents[content]) if content in documents else content)
    (tmp_path / "21.checkpoint").write_text(trail.note(21))
    file = put(tmp_path / "file", [growth] if beside == "a proof of growth" else trail.export(10, 20))
    anchors = [] if beside == "no anchors" else ["--anchors", str(tmp_path)]
    options = [str(file), "--key", trail.key, *anchors, "--consistency"]
    assert verify.main([*options, str(given)]) == verify.NOT_LOOKED_AT
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n"), shown.err[:14]) == ("", 1, "Not verified: ")
    good = put(tmp_path / "good.json", [growth])
    code = verify.main([*options, str(good)])
    assert code == (verify.HOLDS if beside == "an export" else verify.NOT_LOOKED_AT)


def test_an_answer_beside_a_proof_of_growth_is_refused(
    trail: Trail, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = put(tmp_path / "proof.json", [trail.growth(10, 20)])
    assert verify.main([str(proof), "--key", trail.key, "--answer", str(proof)]) == verify.NOT_LOOKED_AT
    assert capsys.readouterr().err.count("\n") == 1


def test_a_proof_of_one_record_shows_no_growth_to_whoever_calls_this_as_a_library(trail: Trail) -> None:
    path = merkle.proof(merkle.inclusion_path(0, 1), lambda _node: b"")
    row = {"id": "row-0"}
    leaf = leaf_bytes("ml_predictions", row)
    root = merkle.leaf_hash(leaf)
    note = trail.signer.sign(Checkpoint("followup-test", 1, root, START, 1).body)
    inclusion = {
        "prediction_id": "row-0",
        "leaf_index": 0,
        "leaf_hash": base64.b64encode(root).decode(),
        "leaf": leaf.decode(),
        "tree_size": 1,
        "inclusion_proof": list(path),
        "checkpoint": note,
    }
    assert verify.ProofVerification(trail.key).take(inclusion).holds
    report = verify.verify(map(json.dumps, trail.export(10, 20)), trail.key, {}, [inclusion])
    assert [finding.kind for finding in report.findings] == ["consistency"]
