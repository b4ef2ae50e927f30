"""A site's own annotated notes: brat standoff, CoNLL columns or this project's inline marks, as marked lines.

The site's labels are mapped to this project's types. A type that no label is mapped to is not known to be absent:
where nothing is marked, training leaves it open. Every fifth document is kept to judge the model by. Faults name file
and line and never quote the notes.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from clinical.entities import ENTITY_TYPES
from errors import SetupError
from training.ner import corpus
from training.ner.corpus import MarkedLine, Mention

Format = Literal["brat", "conll", "inline"]
FORMATS: Final[tuple[Format, ...]] = ("brat", "conll", "inline")
KEPT_OF: Final = 5
"""One document of so many is kept to judge by."""
_LONGEST_LINE: Final = 700  # characters; longer ones are cut at sentences, so that a window holds them

_TAG: Final = re.compile(r"(?:([BIESUL])-)?(.+)")
_BRAT: Final = re.compile(r"T\d+\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\t")
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+")
_NO_BLANK_BEFORE: Final = frozenset({",", ".", ";", ":", "!", "?", ")", "]", "%", "'s", "n't"})
_NO_BLANK_AFTER: Final = frozenset({"(", "["})


@dataclass(frozen=True, slots=True)
class SiteCorpus:
    """What was read: lines to learn from, lines kept to judge by, and the types that the site marks."""

    training: tuple[MarkedLine, ...]
    kept: tuple[MarkedLine, ...]
    types: frozenset[str]
    dropped: int  # marks inside other marks, or of labels that were mapped to nothing
    sha256: str


def label_map(pairs: Sequence[str]) -> dict[str, str]:
    """`THEIRS=OURS` pairs; `THEIRS=` drops a label. Raises SetupError."""
    found = {}
    for pair in pairs:
        theirs, equals, ours = pair.partition("=")
        if not theirs or not equals or (ours and ours not in ENTITY_TYPES):
            kinds = ", ".join(ENTITY_TYPES)
            raise SetupError(f"A label is mapped as THEIRS=OURS, with OURS one of {kinds} or nothing.")
        found[theirs] = ours
    return found


def read(path: Path, format_: Format, labels: Mapping[str, str]) -> SiteCorpus:
    """Read a file, or all files of a folder. Raises SetupError for what is not of the format, or labels unmapped."""
    documents = {"inline": _inline, "brat": _brat, "conll": _conll}[format_](path)
    training: list[MarkedLine] = []
    kept: list[MarkedLine] = []
    unknown: set[str] = set()
    dropped = 0
    told = hashlib.sha256()
    for name, line in documents:
        unknown |= {mention.type for mention in line.mentions} - set(labels) - set(ENTITY_TYPES)
        mapped = [replace(mention, type=labels.get(mention.type, mention.type)) for mention in line.mentions]
        mentions = _without_overlaps([mention for mention in mapped if mention.type])
        dropped += len(line.mentions) - len(mentions)
        told.update(repr((name, line.text, mentions)).encode())
        is_kept = int(hashlib.sha256(name.encode()).hexdigest(), 16) % KEPT_OF == 0
        (kept if is_kept else training).extend(_short_lines(replace(line, mentions=tuple(mentions))))
    if unknown:
        said = ", ".join(sorted(unknown))
        raise SetupError(f"Labels that are mapped to nothing: {said}. Map each: --label THEIRS=OURS")
    if not training:
        raise SetupError(f"No {format_} document to learn from was found.")
    types = frozenset(labels.values()) - {""} | {mention.type for line in training for mention in line.mentions}
    training, kept = ([replace(line, annotates=types) for line in part] for part in (training, kept))
    return SiteCorpus(tuple(training), tuple(kept), types, dropped, told.hexdigest())


def _files(path: Path, *suffixes: str) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise SetupError(f"There is no file or folder {path.name}.")
    found = sorted(file for file in path.rglob("*") if file.suffix in suffixes and file.is_file())
    if not found:
        raise SetupError(f"There is no {' or '.join(suffixes)} file in the folder.")
    return found


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{file.name} cannot be read as UTF-8.") from error


def _inline(path: Path) -> Iterator[tuple[str, MarkedLine]]:
    for line in corpus.read(_files(path, ".txt")):
        yield f"{line.source}:{line.number}", line  # a line is a document


def _brat(path: Path) -> Iterator[tuple[str, MarkedLine]]:
    for file in _files(path, ".ann"):
        text = _text_of(file.with_suffix(".txt"))
        mentions = []
        for number, entry in enumerate(_text_of(file).splitlines(), start=1):
            if not entry.startswith("T"):
                continue  # relations, attributes, notes
            match = _BRAT.match(entry)
            if match is None:
                raise SetupError(f"{file.name}:{number}: not a text-bound annotation of brat")
            fragments = [tuple(map(int, fragment.split())) for fragment in match.group(2).split(";")]
            for start, end in _joined(fragments, text):  # type: ignore[arg-type]
                if not 0 <= start < end <= len(text):
                    raise SetupError(f"{file.name}:{number}: the place lies outside the text")
                mentions.append(Mention(match.group(1), start, end))
        yield file.stem, MarkedLine(text, tuple(mentions), "", file.name, 0)


def _joined(fragments: Sequence[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """Fragments with only blanks between them are one mention (brat cuts at line ends); others are apart."""
    joined = [fragments[0]]
    for start, end in fragments[1:]:
        if not text[joined[-1][1] : start].strip():
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _conll(path: Path) -> Iterator[tuple[str, MarkedLine]]:
    """Token first and tag last in a row, blank rows between sentences; BIO, IOB1, BIOES and BILOU tags."""
    for file in _files(path, ".conll", ".txt", ".tsv", ".bio", ".iob"):
        rows: list[tuple[str, str]] = []
        for number, row in enumerate([*_text_of(file).splitlines(), ""], start=1):
            columns = row.split()
            if columns and columns[0] == "-DOCSTART-":
                continue
            if len(columns) >= 2:
                rows.append((columns[0], columns[-1]))
            elif columns:
                raise SetupError(f"{file.name}:{number}: a row needs a token and a tag")
            elif rows:
                yield f"{file.name}:{number}", _of_rows(rows, file.name, number)
                rows = []


def _of_rows(rows: Sequence[tuple[str, str]], source: str, number: int) -> MarkedLine:
    text, previous = "", ""
    mentions: list[Mention] = []
    for at, (token, tag) in enumerate(rows):
        if at and token not in _NO_BLANK_BEFORE and rows[at - 1][0] not in _NO_BLANK_AFTER:
            text += " "
        start = len(text)
        text += token
        match = _TAG.fullmatch(tag)
        prefix, kind = (match.group(1) or "I", match.group(2)) if match and tag != "O" else ("", "")
        if kind and kind == previous and prefix in "IEL":
            mentions[-1] = replace(mentions[-1], end=len(text))
        elif kind:
            mentions.append(Mention(kind, start, len(text)))
        previous = "" if prefix in "ESLU" else kind
    return MarkedLine(text, tuple(mentions), "", source, number)


def _without_overlaps(mentions: Sequence[Mention]) -> list[Mention]:
    """Of marks that share a letter the longest; the model says one thing of each word."""
    taken: list[Mention] = []
    for mention in sorted(mentions, key=lambda one: (one.start - one.end, one.start)):
        if all(mention.end <= other.start or mention.start >= other.end for other in taken):
            taken.append(mention)
    return sorted(taken, key=lambda one: one.start)


def _short_lines(line: MarkedLine) -> Iterator[MarkedLine]:
    """The document in lines that a window holds, cut at line ends and sentences and never inside a mention."""
    inside = [(mention.start, mention.end) for mention in line.mentions]

    def free(at: int) -> bool:
        return not any(start < at < end for start, end in inside)

    ends = [match.end() for match in re.finditer(r"\n+", line.text) if free(match.end())]
    sentences = [match.end() for match in _SENTENCE.finditer(line.text) if free(match.end())]
    start = 0
    for end in [*ends, len(line.text)]:
        for stop in [*(at for at in sentences if start < at < end), end]:
            if stop == end or stop - start > _LONGEST_LINE // 2:
                yield from _cut(line, start, stop)
                start = stop


def _cut(line: MarkedLine, start: int, end: int) -> Iterator[MarkedLine]:
    text = line.text[start:end].rstrip()
    if text.strip():
        mentions = tuple(
            Mention(mention.type, mention.start - start, mention.end - start)
            for mention in line.mentions
            if start <= mention.start and mention.end <= end
        )
        yield replace(line, text=text, mentions=mentions)
