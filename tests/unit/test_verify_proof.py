"""S6: one proof, checked offline by code of its own: every true one holds, and nothing of it can be changed."""

import base64
import copy
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit import merkle, verify
from audit.canonical import leaf_bytes
from audit.checkpoint import Checkpoint, Signer
from audit.commitment import committed
from audit.merkle import Frontier, Node
from tests.trail_rows import long_ago, make_signer

Document = dict[str, Any]
LARGEST = 33


class Log:
    """A trail of so many predictions, and what proves it."""

    def __init__(self, signer: Signer, size: int = LARGEST, rows: list[Document] | None = None) -> None:
        self.signer = signer
        self.rows = rows or [{"id": str(uuid.UUID(int=index)), "latency_ms": 0.5} for index in range(size)]
        self.leaves = [leaf_bytes("ml_predictions", row) for row in self.rows]
        self._nodes = {Node(0, index): merkle.leaf_hash(leaf) for index, leaf in enumerate(self.leaves)}
        frontier = Frontier()
        self._roots = [frontier.root]
        for index in range(size):
            self._nodes.update(frontier.append(self._nodes[Node(0, index)]))
            self._roots.append(frontier.root)

    def note(self, size: int, by: Signer | None = None) -> str:
        said = Checkpoint("followup-test", size, self._roots[size], long_ago(minutes=LARGEST - size), size)
        return (by or self.signer).sign(said.body)

    def inclusion(self, index: int, size: int) -> Document:
        return {
            "prediction_id": self.rows[index]["id"],
            "leaf_index": index,
            "leaf_hash": base64.b64encode(merkle.leaf_hash(self.leaves[index])).decode(),
            "leaf": self.leaves[index].decode(),
            "tree_size": size,
            "inclusion_proof": self._path(merkle.inclusion_path(index, size)),
            "checkpoint": self.note(size),
        }

    def growth(self, older: int, newer: int) -> Document:
        return {
            "from": older,
            "to": newer,
            "consistency_proof": self._path(merkle.consistency_path(older, newer)),
            "from_checkpoint": self.note(older),
            "to_checkpoint": self.note(newer),
        }

    def _path(self, path: list[merkle.Parts]) -> list[str]:
        return [base64.b64encode(part).decode() for part in merkle.proof(path, self._nodes.__getitem__)]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(make_signer(tmp_path))


def findings(log: Log, document: Any, **anchors: str) -> list[str]:
    report = verify.ProofVerification(str(log.signer.verifier), anchors).take(document)
    return [finding.kind for finding in report.findings]


def test_each_leaf_of_each_tree_is_proven(log: Log) -> None:
    for size in range(1, LARGEST + 1):
        for index in range(size):
            assert findings(log, log.inclusion(index, size)) == []


def test_each_growth_is_proven(log: Log) -> None:
    for newer in range(1, LARGEST + 1):
        for older in range(1, newer + 1):
            assert findings(log, log.growth(older, newer)) == []


def flipped(text: str) -> str:
    raw = bytearray(base64.b64decode(text))
    raw[-1] ^= 1
    return base64.b64encode(raw).decode()


def leaf_of(table: str, row: Any) -> str:
    return leaf_bytes(table, row).decode()


FORGED: list[Callable[[Document], Document]] = [
    lambda d: {"leaf": d["leaf"].replace("0.5", "0.6")},
    lambda d: {"leaf": d["leaf"].replace(":", ": ", 1)},  # the same record, not as it was hashed
    lambda d: {"leaf": leaf_of("audit_events", json.loads(d["leaf"])["row"])},
    lambda d: {"leaf": d["leaf"][:-1] + ',"verdict":"forged"}'},
    lambda d: {"leaf": d["leaf"].replace('"format":1', '"format":1.0')},
    lambda d: {"leaf": d["leaf"].replace('"format":1', '"format":2')},
    lambda d: {"leaf": d["leaf"].replace('"format":1,', "")},
    lambda _: {"verdict": "forged"},
    lambda d: {"leaf": "[]"},
    lambda d: {"leaf": 5},
    lambda d: {"leaf_hash": flipped(d["leaf_hash"]), "leaf": None},
    lambda d: {"leaf_hash": "ü"},
    lambda d: {"leaf_index": d["leaf_index"] + 1},
    lambda d: {"leaf_index": -1},
    lambda d: {"leaf_index": d["tree_size"]},
    lambda d: {"leaf_index": True},
    lambda d: {"leaf_index": 1.0},
    lambda d: {"tree_size": d["tree_size"] + 1},
    lambda d: {"tree_size": 10**400},
    lambda d: {"tree_size": str(d["tree_size"])},
    lambda d: {"prediction_id": str(uuid.UUID(int=999))},
    lambda d: {"prediction_id": None},
    lambda d: {"inclusion_proof": d["inclusion_proof"][::-1]},
    lambda d: {"inclusion_proof": d["inclusion_proof"][:-1]},
    lambda d: {"inclusion_proof": d["inclusion_proof"] + d["inclusion_proof"][:1]},
    lambda d: {"inclusion_proof": [flipped(d["inclusion_proof"][0]), *d["inclusion_proof"][1:]]},
    lambda d: {"inclusion_proof": ["AA==", *d["inclusion_proof"][1:]]},
    lambda _: {"inclusion_proof": None},
    lambda _: {"inclusion_proof": []},
    lambda d: {"checkpoint": d["checkpoint"].replace("horizon 21", "horizon 22")},
    lambda _: {"checkpoint": None},
    lambda _: {"checkpoint": ""},
]


@pytest.mark.requirement("S6")
@pytest.mark.parametrize("forge", FORGED)
def test_a_forged_proof_does_not_hold(log: Log, forge: Callable[[Document], Document]) -> None:
    true = log.inclusion(6, 21)
    assert findings(log, true) == []
    forged = forge(copy.deepcopy(true))
    assert forged != {name: true.get(name) for name in forged}
    assert findings(log, {**true, **forged}) != []


@pytest.mark.parametrize("name", ["prediction_id", "leaf_index", "leaf_hash", "leaf", "tree_size", "checkpoint"])
def test_a_proof_that_lacks_something_does_not_hold(log: Log, name: str) -> None:
    document = log.inclusion(6, 21)
    del document[name]
    assert findings(log, document) == ["malformed"]


def test_a_tree_that_was_rewritten_is_no_growth(log: Log, tmp_path: Path) -> None:
    true = log.growth(13, 29)
    rewritten = log.signer.sign(Checkpoint("followup-test", 13, b"\0" * 32, long_ago(hours=1), 13).body)
    changes: list[Document] = [
        {"from_checkpoint": rewritten},
        {"to_checkpoint": log.note(28)},
        {"from": 12},
        {"from": 0},
        {"from": 29, "to": 13, "from_checkpoint": true["to_checkpoint"], "to_checkpoint": true["from_checkpoint"]},
        {"consistency_proof": true["consistency_proof"][1:]},
        {"consistency_proof": true["consistency_proof"] + true["consistency_proof"][:1]},
        {"consistency_proof": [flipped(part) for part in true["consistency_proof"]]},
        {"from_checkpoint": log.note(13, by=make_signer(tmp_path))},
    ]
    for change in changes:
        assert findings(log, {**true, **change}) != [], change


def test_the_anchor_of_that_size_must_be_the_same(log: Log) -> None:
    forged = log.signer.sign(Checkpoint("followup-test", 21, b"\0" * 32, long_ago(hours=1), 21).body)
    assert findings(log, log.inclusion(6, 21), here=log.note(21), later=log.note(30)) == []
    assert findings(log, log.inclusion(6, 21), here=forged) == ["anchor"]
    assert findings(log, log.inclusion(6, 21), here="broken") == ["anchor"]


def test_the_command_tells_a_proof_from_an_export(log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, key = tmp_path / "proof.json", str(log.signer.verifier)
    other = str(make_signer(tmp_path).verifier)
    for indent in (None, 2):
        file.write_text(json.dumps(log.inclusion(6, 21), indent=indent))
        assert verify.main([str(file), "--key", key]) == 0
        assert capsys.readouterr().out == f"prediction {uuid.UUID(int=6)} is leaf 6 of 21\nEverything holds.\n"
        assert verify.main([str(file), "--key", other]) == 1
        assert verify.main([str(file)]) == 2
        capsys.readouterr()
    file.write_text(json.dumps({**log.inclusion(6, 21), "leaf": None}))
    assert verify.main([str(file), "--key", key]) == 0
    assert "archived" in capsys.readouterr().out
    file.write_text(json.dumps(log.growth(13, 29)))
    assert verify.main([str(file), "--key", key, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["holds"] is True
    file.write_bytes(b"\xff{" * 100)
    assert verify.main([str(file), "--key", key]) == 1


ANSWER = {"prediction_id": str(uuid.UUID(int=6)), "result": {"score": 1.0, "n": [1e-7, "é"]}, "confidence": 0.5}


def committed_log(signer: Signer, answer: Any, **also: Any) -> tuple[Log, Any]:
    """A log whose seventh record is committed to this answer; and the answer as it left."""
    log = Log(signer)
    body, commitment = committed(answer)
    assert commitment is not None
    log.rows[6] = {**log.rows[6], "answer_commitment": base64.b64encode(commitment).decode(), **also}
    return Log(signer, rows=log.rows), json.loads(body)


def answered(log: Log, answer: Any, **changes: Any) -> list[str]:
    proof = verify.ProofVerification(str(log.signer.verifier), None, answer)
    return [finding.kind for finding in proof.take({**log.inclusion(6, 21), **changes}).findings]


def test_an_answer_fits_the_record_that_is_committed_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, answer = committed_log(make_signer(tmp_path), ANSWER)
    assert answered(log, answer) == []
    batch = {"items": [{"prediction_id": "another"}, answer, {"problem": {}}], "model": {}}
    assert answered(log, batch) == []
    rewritten = json.loads(json.dumps(answer, indent=3).replace("1.0", "1"))  # as another client may keep it
    assert answered(log, dict(reversed(rewritten.items()))) == []
    proof, told = tmp_path / "proof.json", tmp_path / "answer.json"
    proof.write_text(json.dumps(log.inclusion(6, 21)))
    told.write_text(json.dumps(answer))
    command = [str(proof), "--key", str(log.signer.verifier), "--answer", str(told)]
    assert verify.main(command) == verify.HOLDS
    assert "the answer is the one that was given" in capsys.readouterr().out
    told.write_text(json.dumps({**answer, "confidence": 0.6}))
    assert verify.main(command) == verify.DOES_NOT_HOLD
    assert "FOUND answer" in capsys.readouterr().out
    told.write_text("nonsense")
    assert verify.main(command) == verify.NOT_LOOKED_AT
    told.write_text(json.dumps(answer))
    assert verify.main([str(told), "--key", str(log.signer.verifier), "--answer", str(told)]) == verify.NOT_LOOKED_AT


@pytest.mark.requirement("S6")
def test_no_other_answer_fits(tmp_path: Path) -> None:
    log, answer = committed_log(make_signer(tmp_path), ANSWER)
    nonce = answer["commitment_nonce"]
    others: list[Any] = [
        {**answer, "result": {"score": 0.9, "n": [1e-7, "é"]}},
        {**answer, "confidence": None},
        {**answer, "notice": "more"},
        {name: value for name, value in answer.items() if name != "confidence"},
        {**answer, "prediction_id": str(uuid.UUID(int=7))},
        {**answer, "commitment_nonce": "0" * 32},
        {**answer, "commitment_nonce": nonce + "00"},
        {**answer, "commitment_nonce": nonce[:-2]},
        {**answer, "commitment_nonce": 5},
        {**answer, "result": 10**400},
        {"items": "none"},
        {"items": [5, None, {}]},
        {},
    ]
    for other in others:
        assert answered(log, other) == ["answer"], other
    assert answered(log, answer, leaf=None) == ["answer"]
    assert answered(Log(log.signer), answer) == ["answer"]  # made before there were commitments
    for odd in (5, "ü", None, [], "AA=="):
        strange, _ = committed_log(log.signer, ANSWER, answer_commitment=odd)
        assert answered(strange, answer) == ["answer"]
    growth = verify.ProofVerification(str(log.signer.verifier), None, answer).take(log.growth(3, 9))
    assert [finding.kind for finding in growth.findings] == ["answer"]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_junk_in_any_place_is_a_finding_and_never_a_traceback(log: Log, data: st.DataObject) -> None:
    document = data.draw(st.sampled_from([log.inclusion(6, 21), log.growth(13, 29)]))
    name = data.draw(st.sampled_from(sorted(document)))
    junk = data.draw(JUNK)
    # Without its leaf a proof proves less, and is no forgery.
    if junk == document[name] or (name == "leaf" and junk is None):
        return
    assert findings(log, {**document, name: junk}) != []


def test_a_deep_leaf_is_a_finding(log: Log) -> None:
    assert findings(log, {**log.inclusion(6, 21), "leaf": "[" * 100_000}) != []
    assert findings(log, {**log.inclusion(6, 21), "leaf": '{"a":' * 5_000 + "1" + "}" * 5_000}) != []
