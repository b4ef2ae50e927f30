"""The verifier's own canonical JSON is that of RFC 8785, and a leaf holds every column but the transaction's id."""

import base64
import json
import struct
from pathlib import Path

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audit import retention, verify
from audit.canonical import COLUMNS, leaf_bytes
from audit.checkpoint import BadNote, Checkpoint, Signer, Verifier, new_key
from audit.export import encode, header
from audit.merkle import Frontier, leaf_hash
from database.tables import AuditEvent, PredictionRecord
from errors import SetupError
from tests.trail_rows import long_ago, make_signer

EXACT = st.integers(-(2**53) + 1, 2**53 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
REALS = st.floats(allow_nan=False, allow_infinity=False, width=32)
VALUES = st.recursive(
    st.none() | st.booleans() | EXACT | FLOATS | REALS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
# RFC 8785, appendix B.
PUBLISHED = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


@pytest.mark.parametrize(("bits", "text"), PUBLISHED.items())
def test_published_numbers(bits: str, text: str) -> None:
    assert verify.number(struct.unpack(">d", bytes.fromhex(bits))[0]) == text


@settings(max_examples=1000)
@given(FLOATS | REALS)
@example(1e21)
@example(1e-6)
@example(123456789012345680000.0)
def test_numbers_are_written_as_the_library_writes_them(value: float) -> None:
    assert verify.number(value).encode() == rfc8785.dumps(value)


@given(VALUES)
@example({"\ue000": 1, "\U0001f600": 2, "é": '\x7f\x00\u2028</\\"'})
def test_documents_are_written_as_the_library_writes_them(value: object) -> None:
    assert verify.canonical(value).encode() == rfc8785.dumps(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, "\ud800", {"\udfff": 1}, b"", (1,)])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(verify.Malformed):
        verify.canonical(value)


@pytest.mark.parametrize("line", ['{"a":1,"a":2}', '{"a":NaN}', '{"a":Infinity}', "[]", "", "{", "[" * 100_000])
def test_lines_that_could_be_read_in_two_ways_are_refused(line: str) -> None:
    with pytest.raises(verify.Malformed):
        verify.read_line(line)


def test_a_leaf_holds_every_column_but_the_transaction() -> None:
    for model in (PredictionRecord, AuditEvent):
        names = [column.name for column in model.__table__.columns]
        assert [name for name, _ in COLUMNS[model.__tablename__]] == [name for name in names if name != "xid"]


def small_export(signer: Signer) -> list[bytes]:
    frontier = Frontier()
    lines = [header(3, str(signer.verifier))]
    for index in range(3):
        at, row_id = f"2026-01-02T03:04:0{index}.000006Z", f"row-{index}"
        row = {"created_at": at, "id": row_id, "status": 200, "action": "read", "outcome": "success", "latency_ms": 0.5}
        hashed = leaf_hash(leaf_bytes("audit_events", row))
        list(frontier.append(hashed))
        leaf = {"kind": "leaf", "index": index, "source": "audit_events", "created_at": at, "id": row_id, "row": row}
        lines.append({**leaf, "hash": base64.b64encode(hashed).decode()})
    said = Checkpoint("followup-test", 3, frontier.root, long_ago(minutes=1), 9)
    lines.append({"kind": "checkpoint", "note": signer.sign(said.body), "anchored": []})
    waiting = {"created_at": "2026-01-02T03:04:09.000000Z", "id": "row-3"}
    lines.append({"kind": "unsealed", "source": "audit_events", "xid": "10", "row": waiting})
    end = {"kind": "end", "leaves": 3, "unsealed": 1, "finished_at": "2026-01-02T03:05:00.000000Z", "xmax": "11"}
    lines.append(end)
    return [encode(line) for line in lines]


def test_an_export_without_a_key_does_not_hold(tmp_path: Path) -> None:
    signer = make_signer(tmp_path)
    lines = small_export(signer)
    assert verify.verify(lines).findings == []
    lines[0] = encode(header(3, None))
    assert not verify.verify(lines).holds
    assert verify.verify(lines, str(signer.verifier)).holds
    assert not verify.verify([]).holds


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_an_export_holds_the_verifier_reports_and_does_not_fall_over(
    tmp_path: Path, data: st.DataObject
) -> None:
    lines = small_export(make_signer(tmp_path))
    number = data.draw(st.integers(0, len(lines) - 1))
    if data.draw(st.booleans()):
        document = json.loads(lines[number])
        document[data.draw(st.sampled_from(sorted(document)))] = data.draw(VALUES)
        lines[number] = json.dumps(document).encode()
    else:
        changed = bytearray(lines[number])
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        lines[number] = bytes(changed)
    verify.show(verify.verify(lines), key_was_given=False)


def test_the_verifier_knows_archives_by_the_words_of_the_trail() -> None:
    assert (verify.ARCHIVED, verify.RETENTION_YEARS) == (retention.ARCHIVED, retention.RETENTION_YEARS)


def test_writer_and_verifier_hash_the_same() -> None:
    row = {"created_at": "2026-01-02T03:04:05.000006Z", "confidence": 0.87, "cache_hit": True, "input": "AAEC"}
    assert verify.hash_of_row("ml_predictions", row) == leaf_hash(leaf_bytes("ml_predictions", row))


def test_a_checkpoint_is_a_signed_note_that_both_sides_read(tmp_path: Path) -> None:
    signer = make_signer(tmp_path)
    checkpoint = Checkpoint("followup-test", 8317, bytes(range(32)), long_ago(minutes=1), 48211)
    note = signer.sign(checkpoint.body)
    assert note.startswith(f"followup-test\n8317\n{base64.b64encode(bytes(range(32))).decode()}\ntime ")
    verifier = Verifier.parse(str(signer.verifier))
    assert verifier.checkpoint(note) == checkpoint
    said = verify.Key(str(signer.verifier)).read(note)
    assert (said.size, said.root, said.time, said.horizon) == (8317, bytes(range(32)), checkpoint.time, 48211)
    other = make_signer(tmp_path)
    for bad in (note.replace("8317", "8318"), note[:-3], note + "x", other.sign(checkpoint.body), "", "\n\n"):
        with pytest.raises(BadNote):
            verifier.checkpoint(bad)
        with pytest.raises(verify.Malformed):
            verify.Key(str(signer.verifier)).read(bad)


def test_the_key_id_is_that_of_signed_notes() -> None:
    """The verifier key published with the Go checksum database; its id follows from name and key."""
    published = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    assert str(Verifier.parse(published)) == published
    verify.Key(published)
    with pytest.raises(SetupError):
        Verifier.parse(published.replace("033de0ae", "033de0af"))


def test_a_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "seal.pem"
    new_key(path)
    before = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SetupError, match="never overwritten"):
        new_key(path)
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["seal.pem"]
    path.chmod(0o644)
    with pytest.raises(SetupError, match="chmod"):
        Signer.load(path, "followup-test")
    with pytest.raises(SetupError):
        Signer.load(tmp_path / "none", "followup-test")
    with pytest.raises(SetupError, match="name"):
        Signer("two words", Ed25519PrivateKey.generate())
