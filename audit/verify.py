"""Verifies a sealed export of the audit trail, offline: python audit/verify.py FILE --key KEY --anchors DIR

Or one proof, as `/audit/proof/{id}` and `/audit/consistency` give it: python audit/verify.py PROOF.json --key KEY

Needs Python and `cryptography`, and shares no code with what wrote the trail: its own canonical JSON (RFC 8785), Merkle
tree (RFC 6962) and signed notes (C2SP). It does not repair and does not guess; what does not hold is listed.
"""

import argparse
import base64
import hashlib
import json
import sys
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EXPORT_FORMAT = "followup-audit-export/1"
LEAF_FORMAT = 1
CLOCKS_DIFFER = timedelta(minutes=5)  # a record may come from a server whose clock is that far ahead
RETENTION_YEARS = 6
ARCHIVED = "archive partition"
ARCHIVE_FORMAT = "followup-audit-archived/1"
_SOURCES = ("ml_predictions", "audit_events")
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_SHOWN = 100
_LARGEST_PROOF = 4 * 2**20


class Malformed(Exception):
    """Something has not the form that it must have."""


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold: what kind, where, in words."""

    kind: str
    leaf: int | None
    message: str


@dataclass
class Report:
    """What was looked at and what was found."""

    leaves: int = 0
    checkpoints: int = 0
    anchors: int = 0
    archived: int = 0
    not_sealed_yet: int = 0
    sealed_until: str | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.findings

    def find(self, kind: str, leaf: int | None, message: str) -> None:
        self.findings.append(Finding(kind, leaf, message))


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


# Archives


@dataclass(frozen=True, order=True)
class Archived:
    """Leaves `first` to `last`, whose rows went into an archive at `time`, which the event of leaf `event` says."""

    first: int
    last: int
    time: datetime
    event: int


def read_archived(key: Key, target: Any, event: int) -> list[Archived]:
    """What the target of an event says was archived. Raises Malformed unless the key signed that."""
    if not isinstance(target, str):
        raise Malformed("it does not say which")
    said = read_line(target)
    try:
        statement = said["statement"]
        if not key.signed(f"{ARCHIVE_FORMAT}\n{canonical(statement)}", said["signature"]):
            raise Malformed("it is not signed with the key")
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
    """Verifies the document of one proof. `said` tells in words what was proven."""

    def __init__(self, key: str, anchors: Mapping[str, str] | None = None) -> None:
        self.report = Report()
        self.said = ""
        self._key = Key(key)
        self._anchor_notes = anchors or {}

    def take(self, document: Mapping[str, Any]) -> Report:
        try:
            (self._inclusion if "inclusion_proof" in document else self._growth)(document)
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
            self.said = (
                f"leaf {index} of {size}; its record is archived, so that only its hash is proven, not whose it is"
            )
            return
        leaf = read_line(document["leaf"])
        if document["leaf"] != canonical(leaf) or hash_of_row(leaf["table"], leaf["row"]) != hashed:
            self.report.find("changed row", index, "the record is not what was sealed")
        if leaf["table"] != _SOURCES[0] or leaf["row"]["id"] != name:
            self.report.find("leaf", index, "the record is not that of the prediction which the proof names")
        self.said = f"prediction {name:.36} is leaf {index} of {size}"

    def _growth(self, document: Mapping[str, Any]) -> None:
        older, newer = document["from"], document["to"]
        before = self._signed(document["from_checkpoint"], older)
        after = self._signed(document["to_checkpoint"], newer)
        roots = roots_of_growth(older, newer, before.root, _path(document["consistency_proof"]))
        if roots != (before.root, after.root):
            self.report.find("proof", None, "the larger tree is not a continuation of the smaller")
        if after.horizon < before.horizon or after.time < before.time:
            self.report.find("checkpoint", None, "the larger tree was signed before the smaller")
        self.said = f"the tree of {newer} leaves continues that of {older}"

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


# The export


class Verification:
    """Takes the lines of an export one by one; `finish` gives the report."""

    def __init__(self, key: str | None = None, anchors: Mapping[str, str] | None = None) -> None:
        self.report = Report()
        self._key = Key(key) if key else None
        self._anchor_notes = anchors or {}
        self._anchors: dict[int, list[tuple[str, Statement]]] = {}
        self._tree = Tree()
        self._last: Statement | None = None
        self._bad_checkpoints = 0
        self._missing: list[tuple[int, str, Statement]] = []  # leaves without a row, and the checkpoint of each
        self._uncovered: list[tuple[int, str]] = []  # of those the ones whose checkpoint is still to come
        self._archived: list[Archived] = []
        self._unsealed: list[tuple[str, int, str]] = []
        self._claimed: tuple[int, int] | None = None
        self._finished: tuple[str, int] = ("", 0)  # when the export was made, and the first transaction after it
        self._began = False

    def take(self, line: str | bytes) -> None:
        try:
            self._take(read_line(line))
        except Malformed as error:
            self.report.find("malformed", self._tree.size, f"after leaf {self._tree.size - 1}: {error}")
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            self.report.find("malformed", self._tree.size, f"after leaf {self._tree.size - 1}: a line lacks something")

    def _take(self, line: dict[str, Any]) -> None:
        kind = line["kind"]
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
            self._finished = (line["finished_at"], int(line["xmax"]))
            self._claimed = (line["leaves"], line["unsealed"])
        else:
            raise Malformed("a line is of no known kind")

    def _begin(self, header: dict[str, Any]) -> None:
        self._began = True
        if header["kind"] != "header" or header["format"] != EXPORT_FORMAT:
            raise Malformed("this is no export that this version knows")
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
        if index != expected:
            self.report.find("order", expected, f"leaf {expected}: number {index!r:.20} stands in its place")
        claimed = base64.b64decode(line["hash"], validate=True)
        self._tree.add(claimed)
        if source not in _SOURCES:
            self.report.find("leaf", expected, f"leaf {expected}: of no known table")
        elif row is None:
            self._uncovered.append((expected, source))
        else:
            self._compare(expected, line, claimed)
        self._check_anchors()

    def _compare(self, index: int, line: dict[str, Any], claimed: bytes) -> None:
        source, row = line["source"], line["row"]
        if (row["id"], row["created_at"]) != (line["id"], line["created_at"]):
            self.report.find("leaf", index, f"leaf {index}: belongs to another row than it names")
        try:
            actual = hash_of_row(source, row)
        except Malformed as error:
            self.report.find("changed row", index, f"leaf {index}: its row in {source}: {error}")
            return
        if actual != claimed:
            self.report.find("changed row", index, f"leaf {index}: its row in {source} is not what was sealed")
        elif source == "audit_events" and row["action"] == ARCHIVED and row["outcome"] == "success":
            self._take_archived(index, row.get("target"))

    def _take_archived(self, index: int, target: Any) -> None:
        assert self._key is not None  # there is no line before the header
        try:
            self._archived.extend(read_archived(self._key, target, index))
        except Malformed as error:
            self.report.find("archive", index, f"leaf {index}: it says that records were archived, but {error}")

    def _check_anchors(self) -> None:
        for name, statement in self._anchors.pop(self._tree.size, ()):
            self.report.anchors += 1
            if statement.root != self._tree.root():
                self.report.find(
                    "anchor", None, f"anchor {name}: the first {statement.size} leaves are not those anchored"
                )

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
        if self._last and (said.size <= before or said.horizon < self._last.horizon):
            self.report.find("checkpoint", None, f"checkpoint at {size} leaves: it goes back behind the one before")
        self._last = said

    def _row_without_leaf(self, line: dict[str, Any]) -> None:
        created_at, row_id = line["row"]["created_at"], line["row"]["id"]
        if not isinstance(created_at, str):
            raise Malformed("a time is no text")
        self._unsealed.append((created_at, int(line["xid"]), f"{line['source']:.20} {row_id:.36}"))

    def finish(self) -> Report:
        """The report, when all lines were taken."""
        report = self.report
        report.leaves = self._tree.size
        last = self._last
        if self._claimed is None:
            report.find("truncated", None, "the export has no end: it was cut off")
        elif self._claimed != (self._tree.size, len(self._unsealed)):
            report.find("truncated", None, "the export has not as many lines as its end says")
        if self._tree.size > (last.size if last else 0):
            first = last.size if last else 0
            report.find("leaf", first, f"leaves {first} to {self._tree.size - 1}: no signed checkpoint covers them")
        for name, statement in (entry for entries in self._anchors.values() for entry in entries):
            report.find(
                "truncated", None, f"anchor {name}: there were {statement.size} leaves, now there are {report.leaves}"
            )
        self._judge_missing()
        self._judge_unsealed()
        if self._bad_checkpoints > 1:
            report.find("tree", None, f"{self._bad_checkpoints - 1} later checkpoints do not fit the leaves either")
        report.sealed_until = last.time.strftime(_TIME) if last else None
        return report

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
        return self._last.time if self._last else datetime.min.replace(tzinfo=UTC)

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


def verify(lines: Iterable[str | bytes], key: str | None = None, anchors: Mapping[str, str] | None = None) -> Report:
    """Verify an export. `key` is a verifier key from elsewhere, `anchors` are notes by name.

    Raises Malformed when `key` is not one.
    """
    verification = Verification(key, anchors)
    for line in lines:
        verification.take(line)
    return verification.finish()


def read_anchors(folder: Path) -> dict[str, str]:
    """The notes of a folder of anchors."""
    return {path.name: path.read_bytes().decode("utf-8", "replace") for path in sorted(folder.glob("*.checkpoint"))}


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
    if not key_was_given:
        lines.append("CAUTION: the key was taken from the export itself; give the one that you know with --key")
    return "\n".join([*lines, *_conclusion(report)])


def _conclusion(report: Report) -> list[str]:
    lines = [f"FOUND {finding.kind}: {finding.message}" for finding in report.findings[:_SHOWN]]
    if len(report.findings) > _SHOWN:
        lines.append(f"and {len(report.findings) - _SHOWN} more")
    return [*lines, "Everything holds." if report.holds else f"DOES NOT HOLD: {len(report.findings)} findings."]


def read_proof(file: Path) -> dict[str, Any] | None:
    """The document of a proof, or None where the file is none: then it is an export."""
    with file.open("rb") as source:
        text = source.read(_LARGEST_PROOF)
    try:
        document = read_line(text)
    except Malformed:
        return None
    return document if document.keys() & {"inclusion_proof", "consistency_proof"} else None


def main(arguments: list[str] | None = None) -> int:
    """0 when everything holds, 1 when something does not, 2 when it could not be looked at."""
    parser = argparse.ArgumentParser(description="Verify a sealed export of the audit trail, or one proof, offline.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--key", help="the verifier key, as you know it from elsewhere; a proof needs it")
    parser.add_argument("--anchors", type=Path, help="folder of *.checkpoint files from where they were anchored")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(arguments)
    try:
        anchors = read_anchors(options.anchors) if options.anchors else {}
        if options.anchors and not anchors:
            raise Malformed("there are no anchors in that folder")
        if (document := read_proof(options.file)) is not None:
            if not options.key:
                raise Malformed("a proof names no verifier key: give one with --key")
            proof = ProofVerification(options.key, anchors)
            report = proof.take(document)
            shown = "\n".join([*filter(None, [proof.said]), *_conclusion(report)])
        else:
            with options.file.open("rb") as lines:
                report = verify(lines, options.key, anchors)
            shown = show(report, key_was_given=options.key is not None)
    except (OSError, Malformed) as error:
        reason = str(error) if isinstance(error, Malformed) else "a file cannot be read"
        sys.stderr.write(f"Not verified: {reason}\n")
        return 2
    if options.json:
        findings = [vars(finding) for finding in report.findings]
        shown = json.dumps({**vars(report), "findings": findings, "holds": report.holds})
    sys.stdout.write(shown + "\n")
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
