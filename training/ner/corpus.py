"""The marked corpus: read, checked, counted, and turned into labels for word pieces.

One sentence or note a line, mentions as `[words](TYPE)` or `[words](TYPE:assertion)`, a line break inside a note as
`\\n` (training/corpus/GUIDELINE.md). Every fault names its file, its line and the rule, and all faults are shown at
once. The held-out files and `calibration.txt` are reserved: they are never read as training lines, and a training line
that repeats one of theirs is refused.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, cast, get_args

import numpy as np

from clinical.entities import ASSERTED, ASSERTIONS, ENTITY_TYPES, LABELS, Assertion, Pieces, Use
from clinical.labelling import Ints
from clinical.medication_use import MEANING
from errors import SetupError

CORPUS: Final = Path(__file__).parent.parent / "corpus"
HELDOUT: Final = ("heldout.txt", "heldout_notes.txt")
CALIBRATION: Final = "calibration.txt"
RESERVED: Final = frozenset({*HELDOUT, CALIBRATION})

_MARK = re.compile(r"\[([^\[\]]*)\]\(([A-Z][A-Z_]*)(?::([a-z]+))?\)")
_LEFT_OVER = re.compile(r"\]\([A-Z][A-Z_]*(?::[a-z]+)?\)")
_ASSERTED_MARK = re.compile(r"\]\([A-Z_]+:[a-z]+\)")
_LINE_BREAK: Final = "\\n"
_BIO: Final = {label: index for index, label in enumerate(LABELS)}
_MOST_FAULTS_SHOWN: Final = 50


@dataclass(frozen=True, slots=True)
class Mention:
    """A marked stretch of a line's plain text: [start, end) in code points.

    What is said of it is None where nobody marked it; two marks of one place are the same whatever they say.
    """

    type: str
    start: int
    end: int
    assertion: Assertion | None = field(default=None, compare=False)
    use: Use | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class MarkedLine:
    """One line of the corpus without its marks, and where it stands."""

    text: str = field(repr=False)
    mentions: tuple[Mention, ...]
    register: str
    source: str
    number: int
    annotates: frozenset[str] = frozenset(ENTITY_TYPES)  # types that are absent where they are not marked

    @property
    def same_as(self) -> str:
        """What two lines share when they say the same: letters and digits only, lower case."""
        return "".join(character for character in self.text.casefold() if character.isalnum())


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that breaks a rule of the format."""

    source: str
    number: int
    rule: str

    def __str__(self) -> str:
        return f"{self.source}:{self.number}: {self.rule}"


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a corpus holds: all counts."""

    lines: int
    lines_without_mention: int
    mentions: int
    by_type: dict[str, int]
    by_source: dict[str, int]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The three parts, which share no line, and the SHA-256 of all files they came from."""

    training: tuple[MarkedLine, ...]
    calibration: tuple[MarkedLine, ...]
    heldout: tuple[MarkedLine, ...]
    sha256: str


def load(folder: Path = CORPUS) -> Corpus:
    """Read the project's corpus. Raises SetupError with every fault found."""
    files = [path for path in sorted(folder.glob("*.txt")) if path.name not in RESERVED]
    held = [folder / HELDOUT[0], *(path for name in HELDOUT[1:] if (path := folder / name).exists())]
    reserved = [folder / CALIBRATION, *held]
    if not files:
        raise SetupError(f"There is no training line: {folder} holds no .txt file but the reserved ones.")
    training = read(files)
    calibration, heldout = read([folder / CALIBRATION]), read(held)
    refuse_shared_lines(training, calibration, heldout)
    return Corpus(tuple(training), tuple(calibration), tuple(heldout), sha256_of([*files, *reserved]))


def refuse_shared_lines(*parts: Sequence[MarkedLine]) -> None:
    """Raises SetupError when a line of one part stands in another part too; case and punctuation do not count."""
    seen: dict[str, MarkedLine] = {}
    shared = []
    for part in parts:
        for line in part:
            first = seen.get(line.same_as)
            if first is not None:
                shared.append(Fault(line.source, line.number, f"also stands in {first.source}:{first.number}"))
        seen |= {line.same_as: line for line in part}
    _refuse(shared, "A line may stand in one part of the corpus only")


def read(files: Iterable[Path]) -> list[MarkedLine]:
    """All lines of the files, in order. Raises SetupError that names each fault's file, line and rule."""
    lines: list[MarkedLine] = []
    faults: list[Fault] = []
    for path in files:
        for found in _read_one(path):
            (lines if isinstance(found, MarkedLine) else faults).append(found)  # type: ignore[arg-type]
    _refuse(faults, "The corpus breaks its format")
    return lines


def _refuse(faults: Sequence[Fault], title: str) -> None:
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:_MOST_FAULTS_SHOWN])
        raise SetupError(f"{title} ({len(faults)}):\n{shown}")


def _read_one(path: Path) -> Iterator[MarkedLine | Fault]:
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        yield Fault(path.name, 0, "the file is missing")
        return
    except UnicodeDecodeError:
        yield Fault(path.name, 0, "the file is not UTF-8")
        return
    register = ""
    asserted = _ASSERTED_MARK.search(content) is not None
    for number, line in enumerate(content.split("\n"), start=1):
        marked = line.strip()
        if marked.startswith("# "):
            register = marked[2:].strip()
        elif marked:
            found = parse(marked, register=register, source=path.name, number=number)
            yield _present_where_unsaid(found) if asserted and isinstance(found, MarkedLine) else found


def _present_where_unsaid(line: MarkedLine) -> MarkedLine:
    """What a file that marks assertions leaves unsaid is present."""
    said = [
        replace(one, assertion="present") if one.type in ASSERTED and one.assertion is None else one
        for one in line.mentions
    ]
    return replace(line, mentions=tuple(said))


def parse(marked: str, *, register: str = "", source: str = "", number: int = 0) -> MarkedLine | Fault:
    """One marked line to its plain text and mentions, or the first fault in it."""
    plain: list[str] = []
    mentions: list[Mention] = []
    length = cursor = 0
    for match in _MARK.finditer(marked := marked.replace(_LINE_BREAK, "\n")):
        before = marked[cursor : match.start()]
        words, kind, said = match.groups()
        rule = _broken_rule(words, kind, marked[: match.start()][-1:], marked[match.end() :][:1])
        rule = rule or _broken_assertion(kind, said)
        if rule is None and _LEFT_OVER.search(before):
            rule = "a mark that never opened, or marks inside each other"
        if rule is not None:
            return Fault(source, number, rule)
        plain += (before, words)
        start = length + len(before)
        length = start + len(words)
        mentions.append(Mention(kind, start, length, *_said(said)))
        cursor = match.end()
    rest = marked[cursor:]
    if _LEFT_OVER.search(rest):
        return Fault(source, number, "a mark that never opened, or marks inside each other")
    return MarkedLine("".join((*plain, rest)), tuple(mentions), register, source, number)


def _broken_rule(words: str, kind: str, before: str, after: str) -> str | None:
    if kind not in ENTITY_TYPES:
        return f"unknown type {kind}"
    if not any(character.isalnum() for character in words):
        return "a mark without a word"
    if words != words.strip() or words[-1] in ",;:" or words[0] in ",;:.":
        return "a mark starts and ends on a word, without the blank or comma around it"
    if (before.isalpha() and words[0].isalpha()) or (after.isalnum() and words[-1].isalnum()):
        return "a mark covers whole words"
    return None


def _broken_assertion(kind: str, said: str | None) -> str | None:
    if said is None:
        return None
    if kind not in ASSERTED:
        return f"{kind} carries no assertion"
    if said in MEANING and kind != "MEDICATION":
        return f"only a MEDICATION is {said}"
    return None if said in MEANING or said in get_args(Assertion) else "unknown assertion"


def _said(said: str | None) -> tuple[Assertion | None, Use | None]:
    if said in MEANING:
        return MEANING[said], said
    return cast(Assertion | None, said), None


def statistics(lines: Sequence[MarkedLine]) -> Statistics:
    """Count lines and mentions."""
    types = Counter(mention.type for line in lines for mention in line.mentions)
    return Statistics(
        lines=len(lines),
        lines_without_mention=sum(not line.mentions for line in lines),
        mentions=types.total(),
        by_type={kind: types[kind] for kind in ENTITY_TYPES},
        by_source=dict(sorted(Counter(line.source for line in lines).items())),
    )


def sha256_of(files: Iterable[Path]) -> str:
    """SHA-256 over the files' names and contents, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(files, key=lambda path: (path.name, str(path))):
        total.update(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n".encode())
    return total.hexdigest()


def piece_assertions(mentions: Sequence[Mention], pieces: Pieces) -> Ints:
    """int64[pieces] indexes into ASSERTIONS, -1 where nothing is said."""
    found = np.full(len(pieces), -1, dtype=np.int64)
    for mention in mentions:
        if mention.assertion is not None:
            inside = (pieces.ends > mention.start) & (pieces.starts < mention.end)
            found[inside] = ASSERTIONS.index(mention.assertion)
    return found


def piece_labels(mentions: Sequence[Mention], pieces: Pieces) -> Ints:
    """int64[pieces] indexes into LABELS. Every piece of a mention's first word begins it; pieces of later words
    continue it.

    Labels are the words', so that a word's pieces agree and their mean means something when decoding.
    """
    labels = np.zeros(len(pieces), dtype=np.int64)
    word_of = np.searchsorted(pieces.word_first, np.arange(len(pieces)), side="right") - 1
    for mention in mentions:
        inside = np.flatnonzero((pieces.ends > mention.start) & (pieces.starts < mention.end))
        if len(inside):
            labels[inside] = _BIO[f"I-{mention.type}"]
            labels[inside[word_of[inside] == word_of[inside[0]]]] = _BIO[f"B-{mention.type}"]
    return labels
