"""Verifies a sealed export of the audit trail, offline: python audit/verify.py FILE --key KEY --anchors DIR

Or one proof, as `/audit/proof/{id}` and `/audit/consistency` give it: python audit/verify.py PROOF.json --key KEY
With `--answer FILE`, whether that is the answer which the record of the proof is committed to.
What is given beside and cannot be of use, or is not what it should be, is refused before anything is looked at.

Needs Python and `cryptography`, and shares no code with what wrote the trail: its own canonical JSON (RFC 8785), Merkle
tree (RFC 6962) and signed notes (C2SP). It does not repair and does not guess; what does not hold is listed.

Exit: 0 everything holds; 1 something does not; 2 it was not looked at; 3 no key was given, so that anybody may have
signed it; 4 it holds as far as it goes, and anchors are newer than it.
"""

import argparse
import base64
import hashlib
import json
import os
import stat
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EXPORT_FORMAT = "followup-audit-export/1"
LEAF_FORMAT = 1
CLOCKS_DIFFER = timedelta(minutes=5)  # a record may come from a server whose clock is that far ahead
SEALED_LATE = timedelta(seconds=10)  # rows that waited longer than that before they were sealed are told of
RETENTION_YEARS = 6
ARCHIVED = "archive partition"
ARCHIVE_FORMAT = "followup-audit-archived/1"
RESTORED = "restore trail"
RESTORE_FORMAT = "followup-audit-restored/1"
LONGEST_LINE = 8 * 2**20
HOLDS, DOES_NOT_HOLD, NOT_LOOKED_AT, NO_KEY, NEWER_ANCHORS = range(5)
_SOURCES = ("ml_predictions", "audit_events")
_LINES = {
    "header": {"kind", "format", "leaves", "verifier_key", "exported_at"},
    "leaf": {"kind", "index", "source", "created_at", "id", "hash", "row"},
    "checkpoint": {"kind", "note", "anchored"},
    "unsealed": {"kind", "source", "xid", "row"},
    "end": {"kind", "leaves", "unsealed", "finished_at", "xmax"},
}
_INCLUSION = {"prediction_id", "leaf_index", "leaf_hash", "leaf", "tree_size", "inclusion_proof", "checkpoint"}
_GROWTH = {"from", "to", "consistency_proof", "from_checkpoint", "to_checkpoint"}
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_FIRST_YEAR, _LAST_YEAR = 1970, 9999  # times that can be reckoned with
_SHOWN = 100
_WINDOWS_SHOWN = 10
_KEPT = 10_000
_LARGEST_PROOF = 4 * 2**20
_LARGEST_NOTE = 2**16
_NONCE_BYTES = 16


class Malformed(Exception):
    """Something has not the form that it must have."""


class NoKey(Malformed):
    """There is nothing to check a signature with."""


class NotAnExport(Malformed):
    """The file is something else, which can be named."""


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold: what kind, where, in words."""

    kind: str
    leaf: int | None
    message: str


@dataclass(frozen=True)
class Window:
    """A time in which rows waited to be sealed: what became of them meanwhile is not proven."""

    begin: str
    end: str
    rows: int


@dataclass(frozen=True)
class Restored:
    """That the database was restored from a backup, as the sealer's key says."""

    leaf: int
    time: str
    by: str
    reason: str
    leaves_lost: int


@dataclass
class Report:
    """What was looked at and what was found."""

    leaves: int = 0
    checkpoints: int = 0
    anchors: int = 0
    archived: int = 0
    not_sealed_yet: int = 0
    sealed_until: str | None = None
    anchored_leaves: int = 0
    anchors_lost: int = 0
    anchors_newer: int = 0  # and nothing says that the export is how what they saw begins
    not_covered_yet: int = 0  # leaves that came after the export, which is proven to be how the larger tree begins
    sealed_late: list[Window] = field(default_factory=list)
    sealed_late_unlisted: int = 0
    restored: list[Restored] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    findings_unlisted: int = 0

    @property
    def holds(self) -> bool:
        return not self.findings

    def find(self, kind: str, leaf: int | None, message: str) -> None:
        if len(self.findings) < _KEPT:
            self.findings.append(Finding(kind, leaf, message))
        else:
            self.findings_unlisted += 1

    def waited(self, window: Window) -> None:
        """Note a window; one that begins before the last one ended is part of it."""
        if self.sealed_late and window.begin <= self.sealed_late[-1].end:
            last = self.sealed_late.pop()
            window = Window(min(last.begin, window.begin), window.end, last.rows + window.rows)
        if len(self.sealed_late) < _KEPT:
            self.sealed_late.append(window)
        else:
            self.sealed_late_unlisted += 1

    def code(self, *, key_was_given: bool) -> int:
        """What the command exits with."""
        if not self.holds:
            return DOES_NOT_HOLD
        if not key_was_given:
            return NO_KEY
        return NEWER_ANCHORS if self.anchors_newer else HOLDS


# Canonical JSON


def number(value: float) -> str:
    """A number as ECMAScript writes it (RFC 8785 section 3.2.2.3). Raises Malformed for what JSON cannot carry."""
    if isinstance(value, int):
        if abs(value) > 2**53 - 1:
            raise Malformed("an integer is too large")
        return str(value)
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - only NaN is not itself
        raise Malformed("a number is not finite")
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e16:  # here Python and ECMAScript differ in the end of whole numbers only
        return repr(value).removesuffix(".0")
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).rstrip("0")
    point = len(digits) + exponent  # the decimal point stands after so many digits
    count = len(text)
    if 0 < point <= 21:
        shown = text.ljust(point, "0") if count <= point else f"{text[:point]}.{text[point:]}"
    elif -6 < point <= 0:
        shown = f"0.{'0' * -point}{text}"
    else:
        power = f"{point - 1:+d}"
        shown = f"{text[0]}{'.' + text[1:] if count > 1 else ''}e{power}"
    return f"-{shown}" if sign else shown


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode("utf-16-le")
        except UnicodeEncodeError as error:
            raise Malformed("a text has half a character") from error
    return json.dumps(value, ensure_ascii=False)


def canonical(value: Any) -> str:  # noqa: PLR0911 - one for each kind of JSON
    """JSON in its one canonical form (RFC 8785). Raises Malformed."""
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, list):
        return f"[{','.join(map(canonical, value))}]"
    if isinstance(value, dict):
        plain = all(map(str.isascii, value))
        names = sorted(value) if plain else sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{_text(name)}:{canonical(value[name])}" for name in names) + "}"
    raise Malformed("a value is none of JSON's")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Malformed("a name stands twice")
    return made


def _refuse(_constant: str) -> Any:
    raise Malformed("a number is not finite")


def read_line(line: str | bytes) -> dict[str, Any]:
    """One line of an export. Raises Malformed."""
    try:
        read = json.loads(line, object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Malformed("a line is not JSON") from error
    if not isinstance(read, dict):
        raise Malformed("a line is no object")
    return read


# The tree


def hash_of_row(source: str, row: Mapping[str, Any]) -> bytes:
    """The hash of a leaf with this row."""
    text = canonical({"format": LEAF_FORMAT, "row": row, "table": source})
    return hashlib.sha256(b"\x00" + text.encode()).digest()


class Tree:
    """A tree that grows; keeps only the subtrees of its right edge, as (leaves below, hash)."""

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[tuple[int, bytes]] = []

    def add(self, leaf: bytes) -> None:
        below, joined = 1, leaf
        while self._edge and self._edge[-1][0] == below:
            joined = hashlib.sha256(b"\x01" + self._edge.pop()[1] + joined).digest()
            below *= 2
        self._edge.append((below, joined))
        self.size += 1

    def root(self) -> bytes:
        if not self._edge:
            return hashlib.sha256(b"").digest()
        root = self._edge[-1][1]
        for _, left in reversed(self._edge[:-1]):
            root = hashlib.sha256(b"\x01" + left + root).digest()
        return root


# Signed notes


@dataclass(frozen=True)
class Statement:
    """What a checkpoint says."""

    size: int
    root: bytes
    time: datetime
    horizon: int


class Key:
    """A verifier key: name+id+key."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self.name, key_id, encoded = text.strip().split("+", 2)
            raw = base64.b64decode(encoded, validate=True)
            self._id = hashlib.sha256(f"{self.name}\n".encode() + raw).digest()[:4]
            if raw[:1] != b"\x01" or self._id.hex() != key_id:
                raise ValueError
            self._key = Ed25519PublicKey.from_public_bytes(raw[1:])
        except (ValueError, AttributeError) as error:
            raise Malformed("the verifier key has not the form of one") from error

    def read(self, note: Any) -> Statement:
        """What a note says. Raises Malformed unless this key signed it and it is a checkpoint of this log."""
        if not isinstance(note, str) or note.count("\n\n") != 1 or not note.endswith("\n"):
            raise Malformed("it has not the form of a checkpoint")
        body, signatures = note.split("\n\n")
        body += "\n"
        if not any(self._signed(body, line) for line in signatures.split("\n")):
            raise Malformed("it is not signed with the key")
        lines = body.split("\n")
        try:
            origin, size, root, time, horizon, _ = lines
            if origin != self.name or time[:5] != "time " or horizon[:8] != "horizon ":
                raise ValueError
            at = datetime.strptime(time[5:], _TIME).replace(tzinfo=UTC)
            if not _FIRST_YEAR <= at.year < _LAST_YEAR:
                raise ValueError
            return Statement(int(size), base64.b64decode(root, validate=True), at, int(horizon[8:]))
        except ValueError as error:
            raise Malformed("it has not the form of a checkpoint") from error

    def signed(self, text: str, signature: Any) -> bool:
        """Whether a bare signature, in Base64, is this key's of the text."""
        try:
            self._key.verify(base64.b64decode(signature, validate=True), text.encode())
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    def _signed(self, body: str, line: str) -> bool:
        start = f"— {self.name} "
        if not line.startswith(start):
            return False
        try:
            raw = base64.b64decode(line[len(start) :], validate=True)
            if raw[:4] != self._id:
                return False
            self._key.verify(raw[4:], body.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


# What the sealer's key says in an event


@dataclass(frozen=True, order=True)
class Archived:
    """Leaves `first` to `last`, whose rows went into an archive at `time`, which the event of leaf `event` says."""

    first: int
    last: int
    time: datetime
    event: int


def _signed_statement(key: Key, target: str, form: str) -> dict[str, Any]:
    said = read_line(target)
    statement = said["statement"]
    if said.keys() != {"signature", "statement"} or not isinstance(statement, dict):
        raise Malformed("it has not the form of one")
    if not key.signed(f"{form}\n{canonical(statement)}", said["signature"]):
        raise Malformed("it is not signed with the key")
    return statement


def read_archived(key: Key, target: Any, event: int) -> list[Archived]:
    """What the target of an event says was archived. Raises Malformed unless the key signed that."""
    if not isinstance(target, str):
        raise Malformed("it does not say which")
    try:
        statement = _signed_statement(key, target, ARCHIVE_FORMAT)
        time = datetime.strptime(statement["time"], _TIME).replace(tzinfo=UTC)
        numbers, end, found = statement["leaves"], 0, []
        for between, run in zip(numbers[::2], numbers[1::2], strict=True):
            if type(between) is not int or type(run) is not int or between < 0 or run < 1:
                raise Malformed("its leaves are no ranges")
            found.append(Archived(end + between, end + between + run - 1, time, event))
            end += between + run
        if statement["origin"] != key.name or sum(numbers[1::2]) != statement["rows"] or end > event:
            raise Malformed("it is not of this trail")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Malformed("it has not the form of one") from error
    return found


def kept_long_enough(sealed: datetime, archived: datetime) -> bool:
    """Whether six years lie between."""
    due = f"{sealed.year + RETENTION_YEARS:04d}{sealed.strftime(_TIME)[4:]}"  # 29 February, too
    return due <= archived.strftime(_TIME)


@dataclass(frozen=True)
class Restoration:
    """The tree went on from `size` leaves; `pasts` are what had been signed last before, once or more often."""

    pasts: tuple[Statement, ...]
    size: int
    xid: int
    said: Restored

    def past_of(self, anchor: Statement) -> list[Statement]:
        """What was signed last of what an anchor may be from: lost, and in no contradiction to what is known of it."""
        return [last for last in self.pasts if self._leads_to(anchor, last)]

    def _leads_to(self, anchor: Statement, last: Statement) -> bool:
        if anchor.size == last.size:
            return anchor == last
        return self.size < anchor.size < last.size and anchor.time <= last.time and anchor.horizon <= last.horizon


def _past(said: Mapping[str, Any]) -> Statement:
    time = datetime.strptime(said["time"], _TIME).replace(tzinfo=UTC)
    if any(type(number) is not int or number < 0 for number in (said["size"], said["horizon"])):
        raise Malformed("its numbers are none")
    return Statement(said["size"], base64.b64decode(said["root"], validate=True), time, said["horizon"])


def read_restored(key: Key, target: Any, leaf: int, before: Statement | None, root: bytes) -> Restoration:
    """What the target of the event at `leaf` says about a restore. Raises Malformed unless it is the very next thing
    after the restored tree, whose last checkpoint is `before`, and the key signed it."""
    if not isinstance(target, str):
        raise Malformed("it does not say how")
    try:
        said = _signed_statement(key, target, RESTORE_FORMAT)
        pasts = tuple(map(_past, [said["signed_last"], *said["also_lost"]]))
        size, xid, lost = said["restored"]["size"], said["xid"], pasts[0].size
        datetime.strptime(said["time"], _TIME).replace(tzinfo=UTC)
        if type(size) is not int or type(xid) is not int or xid < 0:
            raise Malformed("its numbers are none")
        if said["origin"] != key.name or not size <= lost or lost < 1:
            raise Malformed("it is not of this trail")
        if size != leaf or size != (before.size if before else 0):
            raise Malformed(f"it is about a tree of {size} leaves")
        if base64.b64decode(said["restored"]["root"], validate=True) != root:
            raise Malformed("it is about another tree")
        shown = Restored(leaf, said["time"], f"{said['by']:.128}", f"{said['reason']:.500}", lost - size)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Malformed("it has not the form of one") from error
    return Restoration(pasts, size, xid, shown)


# Proofs of one record, and of growth


def _joined(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_above(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that a leaf's path leads to (RFC 9162 section 2.1.3.2). Raises Malformed when it has another length."""
    if not 0 <= index < size:
        raise Malformed("there is no such leaf in that tree")
    goes_right: list[bool] = []  # from the root down
    start, end = 0, size
    while end - start > 1:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        goes_right.append(index >= middle)
        start, end = (middle, end) if index >= middle else (start, middle)
    if len(goes_right) != len(path):
        raise Malformed("the path has not the length that it must have")
    for right, sibling in zip(reversed(goes_right), path, strict=True):
        leaf = _joined(sibling, leaf) if right else _joined(leaf, sibling)
    return leaf


def roots_of_growth(older: int, newer: int, older_root: bytes, path: list[bytes]) -> tuple[bytes, bytes]:
    """(older root, newer root) that a consistency proof leads to (RFC 9162 section 2.1.4.2). Raises Malformed."""
    if not 0 < older <= newer:
        raise Malformed("a tree does not grow from that size to the other")
    rest = list(reversed(path))

    def walk(known: int, size: int, whole: bool) -> tuple[bytes, bytes]:
        """Roots of the first `known` leaves and of all `size` of a subtree."""
        if known == size:
            if whole:
                return older_root, older_root
            found = rest.pop(0)
            return found, found
        half = 1 << ((size - 1).bit_length() - 1)
        sibling = rest.pop(0)
        if known <= half:
            before, after = walk(known, half, whole)
            return before, _joined(after, sibling)
        before, after = walk(known - half, size - half, whole=False)
        return _joined(sibling, before), _joined(sibling, after)

    try:
        roots = walk(older, newer, whole=True)
    except IndexError as error:
        raise Malformed("the path has not the length that it must have") from error
    if rest:
        raise Malformed("the path has not the length that it must have")
    return roots


class ProofVerification:
    """Verifies the document of one proof. `said` tells in words what was proven.

    `answer`: what a caller was told, to be held against the record.
    """

    def __init__(
        self, key: str, anchors: Mapping[str, str] | None = None, answer: Mapping[str, Any] | None = None
    ) -> None:
        self.report = Report()
        self.said = ""
        self.growth: tuple[Statement, Statement] | None = None
        self._key = Key(key)
        self._anchor_notes = anchors or {}
        self._answer = answer

    def take(self, document: Mapping[str, Any]) -> Report:
        included = "inclusion_proof" in document
        if document.keys() - (_INCLUSION if included else _GROWTH):
            self.report.find("format", None, "the proof has something beside what a proof has")
        try:
            (self._inclusion if included else self._growth)(document)
        except Malformed as error:
            self.report.find("proof", None, str(error))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            self.report.find("malformed", None, "the proof lacks something")
        return self.report

    def _inclusion(self, document: Mapping[str, Any]) -> None:
        index, size = document["leaf_index"], document["tree_size"]
        signed = self._signed(document["checkpoint"], size)
        if type(index) is not int:
            raise Malformed("the leaf has no number")
        hashed = base64.b64decode(document["leaf_hash"], validate=True)
        if root_above(hashed, index, size, _path(document["inclusion_proof"])) != signed.root:
            self.report.find("proof", index, "the path does not lead to the root that was signed")
        name = document["prediction_id"]
        if document["leaf"] is None:
            if self._answer is not None:
                self.report.find("answer", index, "the record is archived, so that there is nothing to compare with")
            self.said = (
                f"leaf {index} of {size}; its record is archived, so that only its hash is proven, not whose it is"
            )
            return
        row = self._record(index, document["leaf"], hashed)
        if row["id"] != name:
            self.report.find("leaf", index, "the record is not that of the prediction which the proof names")
        self.said = f"prediction {name:.36} is leaf {index} of {size}"
        if self._answer is not None:
            self._compare_answer(index, name, row)

    def _record(self, index: int, text: str, hashed: bytes) -> dict[str, Any]:
        """The row of the leaf, whose text must be to the byte what was hashed."""
        leaf = read_line(text)
        row: dict[str, Any] = leaf["row"]
        exact = {"format": LEAF_FORMAT, "row": row, "table": leaf["table"]}
        if text != canonical(exact) or hashlib.sha256(b"\x00" + text.encode()).digest() != hashed:
            self.report.find("changed row", index, "the record is not what was sealed")
        if leaf["table"] != _SOURCES[0]:
            self.report.find("leaf", index, "the record is not that of a prediction")
        return row

    def _compare_answer(self, index: int, name: str, row: Mapping[str, Any]) -> None:
        assert self._answer is not None
        try:
            committed = base64.b64decode(row["answer_commitment"], validate=True)
        except (KeyError, TypeError, ValueError):
            self.report.find("answer", index, "the record is not committed to any answer")
            return
        try:
            given = commitment_to(answer_to(self._answer, name))
        except (Malformed, KeyError, TypeError, ValueError, AttributeError, RecursionError):
            self.report.find("answer", index, "that is no answer to this prediction")
            return
        if given != committed:
            self.report.find("answer", index, "that is not the answer which the record is committed to")
        else:
            self.said += ", and the answer is the one that was given"
            if is_batch(self._answer):
                self.said += ": this item of the batch; the rest of the file was not compared"

    def _growth(self, document: Mapping[str, Any]) -> None:
        if self._answer is not None:
            self.report.find("answer", None, "an answer is held against the proof of its record")
        older, newer = document["from"], document["to"]
        before = self._signed(document["from_checkpoint"], older)
        after = self._signed(document["to_checkpoint"], newer)
        roots = roots_of_growth(older, newer, before.root, _path(document["consistency_proof"]))
        if roots != (before.root, after.root):
            self.report.find("proof", None, "the larger tree is not a continuation of the smaller")
        if after.horizon < before.horizon or after.time < before.time:
            self.report.find("checkpoint", None, "the larger tree was signed before the smaller")
        self.said = f"the tree of {newer} leaves continues that of {older}"
        self.growth = before, after

    def _signed(self, note: Any, size: Any) -> Statement:
        signed = self._key.read(note)
        self.report.checkpoints += 1
        if type(size) is not int or signed.size != size:
            raise Malformed(f"the checkpoint is one of {signed.size} leaves, and the proof is not")
        for name, anchor in self._anchor_notes.items():
            try:
                anchored = self._key.read(anchor)
            except Malformed as error:
                self.report.find("anchor", None, f"anchor {name}: {error}")
                continue
            if anchored.size == size:
                self.report.anchors += 1
                if anchored.root != signed.root:
                    self.report.find("anchor", None, f"anchor {name}: the first {size} leaves are not those anchored")
        self.report.leaves = size
        self.report.sealed_until = signed.time.strftime(_TIME)
        return signed


def _path(parts: Any) -> list[bytes]:
    path = [base64.b64decode(part, validate=True) for part in parts]
    if any(len(part) != hashlib.sha256().digest_size for part in path):
        raise Malformed("the path is not made of hashes")
    return path


def answer_to(answer: Mapping[str, Any], prediction_id: str) -> Mapping[str, Any]:
    """The answer itself, or the item of a batch that answers this prediction. Raises Malformed without one."""
    if not is_batch(answer):
        if answer.get("prediction_id") == prediction_id:
            return answer
        raise Malformed("it answers another prediction")
    found = [item for item in answer["items"] if isinstance(item, dict) and item.get("prediction_id") == prediction_id]
    if len(found) != 1:
        raise Malformed("it answers another prediction")
    item: Mapping[str, Any] = found[0]
    return item


def is_batch(answer: Mapping[str, Any]) -> bool:
    """Whether it is the answer of a batch and nothing else, so that each item is committed to by itself."""
    return isinstance(answer.get("items"), list) and answer.keys() <= {"items", "model", "metadata"}


def commitment_to(answer: Mapping[str, Any]) -> bytes:
    """SHA-256(nonce ‖ canonical JSON of the answer without the nonce). Raises Malformed, KeyError, ValueError."""
    rest = dict(answer)
    nonce = bytes.fromhex(rest.pop("commitment_nonce"))
    if len(nonce) != _NONCE_BYTES:
        raise Malformed("the nonce has another length")
    return hashlib.sha256(nonce + canonical(rest).encode()).digest()


# The export


class Verification:
    """Takes the lines of an export one by one; `finish` gives the report.

    `growth`: documents of `/audit/consistency`, which may show that newer anchors continue the export.
    """

    def __init__(
        self,
        key: str | None = None,
        anchors: Mapping[str, str] | None = None,
        growth: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.report = Report()
        self._key = Key(key) if key else None
        self._anchor_notes = anchors or {}
        self._growth = growth
        self._anchors: dict[int, list[tuple[str, Statement]]] = {}
        self._lost: list[tuple[str, Statement]] = []
        self._tree = Tree()
        self._last: Statement | None = None
        self._bad_checkpoints = 0
        self._made: Counter[str] = Counter()  # rows since the last checkpoint, by the second in which they were made
        self._missing: list[tuple[int, str, Statement]] = []  # leaves without a row, and the checkpoint of each
        self._uncovered: list[tuple[int, str]] = []  # of those the ones whose checkpoint is still to come
        self._archived: list[Archived] = []
        self._restored: list[Restoration] = []
        self._new_horizon: int | None = None  # after a restore the next checkpoint may go back, not below this
        self._unsealed: list[tuple[str, int, str]] = []
        self._announced: Any = None
        self._claimed: tuple[int, int] | None = None
        self._finished: tuple[str, int] = ("", 0)  # when the export was made, and the first transaction after it
        self._began = False

    def take(self, line: str | bytes | None) -> None:
        """One line; None for one that was too long to be read. Raises NotAnExport at the first."""
        try:
            if line is None or len(line) > LONGEST_LINE:
                self._began = True
                raise Malformed("a line is longer than any that was written")
            self._take(read_line(line))
        except NotAnExport:
            raise
        except Malformed as error:
            self.report.find("malformed", self._tree.size, f"after leaf {self._tree.size - 1}: {error}")
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            self.report.find("malformed", self._tree.size, f"after leaf {self._tree.size - 1}: a line lacks something")

    def _take(self, line: dict[str, Any]) -> None:
        kind = line.get("kind")
        if not self._began:
            self._begin(line)
        elif self._claimed is not None:
            raise Malformed("there are lines behind the end")
        elif kind == "leaf":
            self._leaf(line)
        elif kind == "checkpoint":
            self._checkpoint(line["note"])
        elif kind == "unsealed":
            self._row_without_leaf(line)
        elif kind == "end":
            self._end(line)
        else:
            raise Malformed("a line is of no known kind")
        if line.keys() - _LINES[line["kind"]]:
            raise Malformed("a line has something beside what such a line has")

    def _begin(self, header: dict[str, Any]) -> None:
        self._began = True
        refuse_foreign(header)
        if header["kind"] != "header" or header["format"] != EXPORT_FORMAT:
            raise Malformed("this is no export that this version knows")
        self._announced = header["leaves"]
        if self._key is None:
            if header["verifier_key"] is None:
                raise Malformed("the export names no verifier key: give one with --key")
            self._key = Key(header["verifier_key"])
        for name, note in self._anchor_notes.items():
            try:
                statement = self._key.read(note)
            except Malformed as error:
                self.report.find("anchor", None, f"anchor {name}: {error}")
            else:
                self._anchors.setdefault(statement.size, []).append((name, statement))

    def _leaf(self, line: dict[str, Any]) -> None:
        index, source, row = line["index"], line["source"], line["row"]
        expected = self._tree.size
        if type(index) is not int or index != expected:
            self.report.find("order", expected, f"leaf {expected}: number {index!r:.20} stands in its place")
        claimed = base64.b64decode(line["hash"], validate=True)
        restores = isinstance(row, dict) and row.get("action") == RESTORED
        root_before = self._tree.root() if restores else b""
        self._tree.add(claimed)
        if source not in _SOURCES:
            self.report.find("leaf", expected, f"leaf {expected}: of no known table")
        elif row is None:
            self._uncovered.append((expected, source))
        elif self._is_what_was_sealed(expected, line, claimed):
            self._made[f"{row['created_at']:.19}"] += 1
            if source == "audit_events" and row["outcome"] == "success":
                self._take_statement(expected, row, root_before)
        self._check_anchors()

    def _is_what_was_sealed(self, index: int, line: dict[str, Any], claimed: bytes) -> bool:
        source, row = line["source"], line["row"]
        if (row["id"], row["created_at"]) != (line["id"], line["created_at"]):
            self.report.find("leaf", index, f"leaf {index}: belongs to another row than it names")
        try:
            actual = hash_of_row(source, row)
        except Malformed as error:
            self.report.find("changed row", index, f"leaf {index}: its row in {source}: {error}")
            return False
        if actual != claimed:
            self.report.find("changed row", index, f"leaf {index}: its row in {source} is not what was sealed")
        return actual == claimed

    def _take_statement(self, index: int, row: Mapping[str, Any], root_before: bytes) -> None:
        """Of an event that explains something by the sealer's own signature."""
        if self._key is None:
            return  # that there is none is a finding already
        target = row.get("target")
        if row["action"] == ARCHIVED:
            try:
                self._archived.extend(read_archived(self._key, target, index))
            except Malformed as error:
                message = f"leaf {index}: it says that records were archived, but {error}"
                self.report.find("archive", index, message)
        elif row["action"] == RESTORED:
            try:
                restoration = read_restored(self._key, target, index, self._last, root_before)
            except Malformed as error:
                message = f"leaf {index}: it says that the trail was restored, but {error}"
                self.report.find("restore", index, message)
            else:
                self._restored.append(restoration)
                self._new_horizon = restoration.xid
                self.report.restored.append(restoration.said)

    def _check_anchors(self) -> None:
        for name, anchor in self._anchors.pop(self._tree.size, ()):
            if anchor.root == self._tree.root():
                self.report.anchors += 1
                self.report.anchored_leaves = anchor.size
            elif any(restoration.past_of(anchor) for restoration in self._restored):
                self._lost.append((name, anchor))
            else:
                self.report.anchors += 1
                message = f"anchor {name}: the first {anchor.size} leaves are not those anchored"
                self.report.find("anchor", None, message)

    def _checkpoint(self, note: Any) -> None:
        size = self._tree.size
        self.report.checkpoints += 1
        try:
            if self._key is None:
                raise Malformed("there is no key to check it with")
            said = self._key.read(note)
        except Malformed as error:
            self.report.find("checkpoint", None, f"checkpoint at {size} leaves: {error}")
            return
        self._missing.extend((leaf, source, said) for leaf, source in self._uncovered)
        self._uncovered.clear()
        before = self._last.size if self._last else 0
        if said.size != size:
            self.report.find("checkpoint", None, f"checkpoint at {size} leaves: it is one of {said.size} leaves")
        elif said.root != self._tree.root():
            self._bad_checkpoints += 1
            if self._bad_checkpoints == 1:
                self.report.find(
                    "tree", before, f"leaves {before} to {size - 1}: one or more are not those that were signed"
                )
        if self._goes_back(said):
            self.report.find("checkpoint", None, f"checkpoint at {size} leaves: it goes back behind the one before")
        self._new_horizon = None
        self._tell_late(said)
        self._last = said

    def _goes_back(self, said: Statement) -> bool:
        if self._last is None:
            return False
        horizon = self._last.horizon if self._new_horizon is None else self._new_horizon
        return said.size <= self._last.size or said.horizon < horizon

    def _tell_late(self, said: Statement) -> None:
        """Rows that waited, by the times in them, which are their writers' word, and the time that was signed."""
        limit = (said.time - SEALED_LATE).strftime(_TIME)[:19]
        late = [second for second in self._made if second < limit and second[:4].isdigit()]
        if late:
            rows = sum(self._made[second] for second in late)
            self.report.waited(Window(f"{min(late)}Z", f"{said.time.strftime(_TIME)[:19]}Z", rows))
        self._made.clear()

    def _row_without_leaf(self, line: dict[str, Any]) -> None:
        created_at, row_id = line["row"]["created_at"], line["row"]["id"]
        if not isinstance(created_at, str):
            raise Malformed("a time is no text")
        self._unsealed.append((created_at, int(line["xid"]), f"{line['source']:.20} {row_id:.36}"))

    def _end(self, line: dict[str, Any]) -> None:
        leaves, unsealed = line["leaves"], line["unsealed"]
        if type(leaves) is not int or type(unsealed) is not int:
            raise Malformed("the end counts nothing")
        self._finished = (line["finished_at"], int(line["xmax"]))
        self._claimed = (leaves, unsealed)

    def finish(self) -> Report:
        """The report, when all lines were taken."""
        report = self.report
        report.leaves = self._tree.size
        last = self._last
        if self._claimed is None:
            report.find("truncated", None, "the export has no end: it was cut off")
        elif self._claimed != (self._tree.size, len(self._unsealed)):
            report.find("truncated", None, "the export has not as many lines as its end says")
        if type(self._announced) is not int or self._announced != self._tree.size:
            report.find("truncated", None, "the export has not as many leaves as its header says")
        if self._tree.size > (last.size if last else 0):
            first = last.size if last else 0
            report.find("leaf", first, f"leaves {first} to {self._tree.size - 1}: no signed checkpoint covers them")
        self._judge_anchors()
        self._judge_missing()
        self._judge_unsealed()
        if self._bad_checkpoints > 1:
            report.find("tree", None, f"{self._bad_checkpoints - 1} later checkpoints do not fit the leaves either")
        report.sealed_until = last.time.strftime(_TIME) if last else None
        return report

    def _judge_anchors(self) -> None:
        """Anchors of more leaves than there are: of what was lost and is stated, newer than the export, or cut off."""
        finished = _time_of(self._finished[0])
        if finished is not None and self._known_until - finished > CLOCKS_DIFFER:
            finished = None  # made before its last checkpoint was signed: nobody made it then
        grown = self._grown_trees()
        for name, anchor in (entry for entries in self._anchors.values() for entry in entries):
            if any(restoration.past_of(anchor) for restoration in self._restored):
                self._lost.append((name, anchor))
            elif finished is None or anchor.time <= finished:
                message = f"anchor {name}: there were {anchor.size} leaves, now there are {self.report.leaves}"
                self.report.find("truncated", None, message)
            elif (anchor.size, anchor.root) in grown:
                self.report.not_covered_yet = max(self.report.not_covered_yet, anchor.size - self.report.leaves)
            else:
                self.report.anchors_newer += 1
        self.report.anchors_lost = len(self._lost)
        for restoration in self._restored:
            for past in restoration.pasts:
                self._compare_lost([entry for entry in self._lost if restoration.past_of(entry[1]) == [past]])

    def _grown_trees(self) -> set[tuple[int, bytes]]:
        """The larger trees that are proven to begin with this one."""
        if self._key is None or self._last is None:
            return set()
        grown = {(self._last.size, self._last.root)}
        steps = []
        for document in self._growth:
            proof = ProofVerification(self._key.text)
            for finding in proof.take(document).findings:
                self.report.find("consistency", None, f"consistency proof: {finding.message}")
            if proof.growth is None and proof.report.holds:
                self.report.find("consistency", None, "consistency proof: it is a proof of something else")
            elif proof.report.holds and proof.growth is not None:
                before, after = proof.growth
                steps.append(((before.size, before.root), (after.size, after.root)))
        for before_tree, after_tree in sorted(steps):  # by size, so that each follows what it may continue
            if before_tree in grown:
                grown.add(after_tree)
        return grown

    def _compare_lost(self, anchors: list[tuple[str, Statement]]) -> None:
        """Of what was lost, larger trees were signed later."""
        by_size = sorted(anchors, key=lambda entry: (entry[1].size, entry[1].time))
        for (_, smaller), (name, larger) in pairwise(by_size):
            same = smaller.size == larger.size
            if (same and smaller.root != larger.root) or larger.time < smaller.time or larger.horizon < smaller.horizon:
                self.report.find("anchor", None, f"anchor {name}: it contradicts another of what was lost")

    def _judge_missing(self) -> None:
        """Rows that are gone: archived, where the sealer's key says so of this very leaf and it was due, or deleted."""
        ranges = sorted(self._archived)
        starts = [archived.first for archived in ranges]
        for leaf, source, checkpoint in self._missing:
            position = bisect_right(starts, leaf) - 1
            archived = ranges[position] if position >= 0 and leaf <= ranges[position].last else None
            if archived is None:
                self.report.find("deleted row", leaf, f"leaf {leaf}: its row in {source} is gone")
            elif not kept_long_enough(checkpoint.time, archived.time) or archived.time > self._known_until:
                self.report.find("archive", leaf, f"leaf {leaf}: its row in {source} was archived before its time")
            else:
                self.report.archived += 1
        for leaf, source in self._uncovered:
            self.report.find("deleted row", leaf, f"leaf {leaf}: its row in {source} is gone")

    @property
    def _known_until(self) -> datetime:
        return self._last.time if self._last else datetime(1970, 1, 1, tzinfo=UTC)

    def _judge_unsealed(self) -> None:
        """Rows without a leaf: too new, or put in behind the sealer's back.

        Not by their time: a transaction that was open for long commits rows that are older than the last checkpoint.
        """
        horizon = self._last.horizon if self._last else 0
        finished_at, xmax = self._finished
        latest = self._latest(finished_at)
        for created_at, xid, name in self._unsealed:
            if xid < horizon:
                self.report.find("inserted row", None, f"{name}: written among transactions that were all sealed")
            elif xid >= xmax:
                self.report.find("inserted row", None, f"{name}: of a transaction that there was not yet")
            elif created_at > latest:
                self.report.find("inserted row", None, f"{name}: of a time that is still to come")
            else:
                self.report.not_sealed_yet += 1

    def _latest(self, finished_at: str) -> str:
        try:
            return (datetime.strptime(finished_at, _TIME).replace(tzinfo=UTC) + CLOCKS_DIFFER).strftime(_TIME)
        except (ValueError, TypeError, OverflowError):
            return ""  # an export without a good end: that is a finding already, and nothing is taken for new


def _time_of(text: Any) -> datetime | None:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except (ValueError, TypeError):
        return None


def refuse_foreign(document: Mapping[str, Any]) -> None:
    """Raises NotAnExport where the file is of another kind that we give out."""
    if "resourceType" in document:
        raise NotAnExport(
            "this is an export of FHIR AuditEvents, which carries no seal: export the sealed form (format=sealed)"
        )


def verify(
    lines: Iterable[str | bytes | None],
    key: str | None = None,
    anchors: Mapping[str, str] | None = None,
    growth: Sequence[Mapping[str, Any]] = (),
) -> Report:
    """Verify an export. `key` is a verifier key from elsewhere, `anchors` are notes by name.

    Raises Malformed when `key` is not one, NotAnExport when the file is something else.
    """
    verification = Verification(key, anchors, growth)
    for line in lines:
        verification.take(line)
    return verification.finish()


# Files: whatever their names and contents hold, they are read as files and shown as plain text


def open_file(path: Path) -> IO[bytes]:
    """A regular file. Raises Malformed for what is none, such as a pipe that nobody fills; OSError."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    if path.is_symlink():
        raise Malformed(f"{path} is a link and no file")
    source = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
        source.close()
        raise Malformed(f"{path} is no file")
    return source


def lines_of(source: IO[bytes]) -> Iterator[bytes | None]:
    """The lines of a file, None for each that is too long to be one."""
    while line := source.readline(LONGEST_LINE):
        if len(line) < LONGEST_LINE or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = source.readline(LONGEST_LINE)
        yield None


def read_anchors(folder: Path) -> dict[str, str]:
    """The notes of a folder of anchors. Raises Malformed, OSError."""
    notes = {}
    for path in sorted(folder.glob("*.checkpoint")):
        with open_file(path) as source:
            notes[path.name] = source.read(_LARGEST_NOTE).decode("utf-8", "replace")
    return notes


def read_document(file: Path) -> dict[str, Any]:
    """One JSON object in a file. Raises Malformed, OSError."""
    with open_file(file) as source:
        text = source.read(_LARGEST_PROOF + 1)
    if len(text) > _LARGEST_PROOF:
        raise Malformed(f"{file} is too large for what it should be")
    return read_line(text)


def read_growth(file: Path) -> dict[str, Any]:
    """An answer of `/audit/consistency`. Raises Malformed for anything else, OSError."""
    try:
        document = read_document(file)
    except Malformed as error:
        raise Malformed(f"{file} is no answer of /audit/consistency: {error}") from error
    if document.keys() != _GROWTH:
        raise Malformed(f"{file} is no answer of /audit/consistency")
    return document


def read_proof(file: Path) -> dict[str, Any] | None:
    """The document of a proof, or None where the file is none: then it is an export. Raises NotAnExport, OSError."""
    with open_file(file) as source:
        text = source.read(_LARGEST_PROOF)
    try:
        document = read_line(text)
    except Malformed:
        return None
    refuse_foreign(document)
    return document if document.keys() & {"inclusion_proof", "consistency_proof"} else None


def printable(text: str) -> str:
    """On one line, without what would steer a terminal or turn the direction of writing."""
    return "".join(shown if shown.isprintable() else f"\\u{ord(shown):04x}" for shown in text)


def _write(stream: Any, lines: Iterable[str]) -> None:
    encoding = stream.encoding or "utf-8"
    for line in lines:
        stream.write(printable(line).encode(encoding, "backslashreplace").decode(encoding) + "\n")


def show(report: Report, *, key_was_given: bool) -> str:
    """The report of an export for people."""
    lines = [
        f"{report.leaves} sealed records, {report.checkpoints} checkpoints, {report.anchors} anchors"
        f"; sealed until {report.sealed_until or 'never'}",
    ]
    if report.archived:
        lines.append(f"{report.archived} records are in archives and were not looked at; their places in the tree were")
    if report.not_sealed_yet:
        lines.append(f"{report.not_sealed_yet} records are not sealed yet")
    lines += _restored(report) + _sealed_late(report)
    if report.not_covered_yet:
        lines.append(f"{report.not_covered_yet} records were sealed after it was made, and continue it")
    if report.anchors_newer:
        lines.append("the export says that it is older than some anchors, which nobody signed: nothing shows that it")
        lines[-1] += " is how they begin; ask for /audit/consistency and give it with --consistency"
    if not report.anchors and not report.anchors_newer:
        lines.append("no anchor was compared: whether records were cut off its end is not known")
    elif report.anchored_leaves < report.leaves:
        first = report.anchored_leaves
        lines.append(f"no anchor covers the leaves from {first} on: whether more were cut off its end is not known")
    if not key_was_given:
        lines.append("CAUTION: the key was taken from the export itself; give the one that you know with --key")
    return "\n".join([*lines, *_conclusion(report, key_was_given=key_was_given)])


def _restored(report: Report) -> list[str]:
    lines = [
        f"restored from a backup at leaf {said.leaf}, {said.time}, by {said.by}: {said.leaves_lost} sealed records lost"
        f" ({said.reason})"
        for said in report.restored[:_SHOWN]
    ]
    if report.anchors_lost:
        lines.append(f"{report.anchors_lost} anchors are of records that were lost then")
    return lines


def _sealed_late(report: Report) -> list[str]:
    windows = report.sealed_late
    lines = [
        f"{window.rows} records waited to be sealed between {window.begin} and {window.end} ({_seconds(window)} s)"
        for window in windows[:_WINDOWS_SHOWN]
    ]
    if more := len(windows) - len(lines) + report.sealed_late_unlisted:
        lines.append(f"and in {more} more windows")
    if windows:
        lines.append(
            "what was changed or removed while it waited is not known; a sealer that was stopped is one reason"
        )
    return lines


def _seconds(window: Window) -> int:
    try:
        between = datetime.fromisoformat(window.end) - datetime.fromisoformat(window.begin)
    except ValueError:
        return 0  # a row of a time that is none
    return round(between.total_seconds())


def _conclusion(report: Report, *, key_was_given: bool = True) -> list[str]:
    count = len(report.findings) + report.findings_unlisted
    lines = [f"FOUND {finding.kind}: {finding.message}" for finding in report.findings[:_SHOWN]]
    if count > _SHOWN:
        lines.append(f"and {count - _SHOWN} more")
    return [
        *lines,
        {
            HOLDS: "Everything holds.",
            DOES_NOT_HOLD: f"DOES NOT HOLD: {count} findings.",
            NO_KEY: "NO KEY: it fits together, and anybody may have signed it.",
            NEWER_ANCHORS: f"Holds as far as it goes: {report.anchors_newer} newer anchors.",
        }[report.code(key_was_given=key_was_given)],
    ]


def main(arguments: list[str] | None = None) -> int:
    """Exits as said at the top."""
    parser = argparse.ArgumentParser(description="Verify a sealed export of the audit trail, or one proof, offline.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--key", help="the verifier key, as you know it from elsewhere; a proof needs it")
    parser.add_argument("--anchors", type=Path, help="folder of *.checkpoint files from where they were anchored")
    parser.add_argument(
        "--consistency", type=Path, action="append", default=[], help="an answer of /audit/consistency to newer anchors"
    )
    parser.add_argument("--answer", type=Path, help="with a proof: the answer that was given, to be compared")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(arguments)
    options.key = (options.key or "").strip() or None  # an empty variable of the shell is no key
    try:
        report, shown = _look(options)
    except (OSError, Malformed) as error:
        reason = str(error) if isinstance(error, Malformed) else "a file cannot be read"
        _write(sys.stderr, [f"Not verified: {reason}"])
        return NO_KEY if isinstance(error, NoKey) else NOT_LOOKED_AT
    if options.json:
        shown = [json.dumps({**asdict(report), "holds": report.holds})]
    _write(sys.stdout, shown)
    return report.code(key_was_given=options.key is not None)


def _look(options: argparse.Namespace) -> tuple[Report, list[str]]:
    anchors = read_anchors(options.anchors) if options.anchors else {}
    if options.anchors and not anchors:
        raise Malformed("there are no anchors in that folder")
    if (document := read_proof(options.file)) is not None:
        if not options.key:
            raise Malformed("a proof names no verifier key: give one with --key")
        if options.consistency:
            raise Malformed("--consistency belongs to an export, and the file is a proof: give one of them alone")
        if options.answer and "inclusion_proof" not in document:
            raise Malformed("an answer is held against the proof of its record, and the file is a proof of growth")
        answer = read_document(options.answer) if options.answer else None
        proof = ProofVerification(options.key, anchors, answer)
        report = proof.take(document)
        return report, [*filter(None, [proof.said]), *_conclusion(report)]
    if options.answer:
        raise Malformed("an answer is held against a proof, and the file is none")
    if options.consistency and not anchors:
        raise Malformed("--consistency shows that newer anchors continue an export: give those with --anchors")
    growth = [read_growth(file) for file in options.consistency]
    with open_file(options.file) as source:
        if not options.key and _names_no_key(source.readline(LONGEST_LINE)):
            raise NoKey("the export names no verifier key: give one with --key")
        source.seek(0)
        report = verify(lines_of(source), options.key, anchors, growth)
    if report.holds and not report.checkpoints:  # such a file anybody can write
        raise Malformed("nothing in it is signed: there is nothing to verify")
    return report, show(report, key_was_given=options.key is not None).split("\n")


def _names_no_key(line: bytes) -> bool:
    """Whether it is the header of an export as a server gives it, which has no key to name."""
    try:
        header = read_line(line)
    except Malformed:
        return False
    return header.get("format") == EXPORT_FORMAT and header.get("verifier_key") is None


if __name__ == "__main__":
    sys.exit(main())
