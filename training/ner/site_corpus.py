"""A site's own annotated notes: brat standoff, CoNLL columns or this project's inline marks, as marked lines.

The site's labels are mapped to this project's types. A type that no label is mapped to is not known to be absent:
where nothing is marked, training leaves it open. Every fifth document is kept to judge the model by, whole: no document
has lines on both sides. Faults name file and line and never quote the notes.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
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
_BLANK_ROWS_PART: Final = 2  # so many blank rows part documents
_LONGEST_LINE: Final = 700  # characters; longer ones are cut at sentences, so that a window holds them

_TAG: Final = re.compile(r"(?:([BIESUL])-)?(.+)")
_BRAT: Final = re.compile(r"T\d+\t(\S+) (\d+ \d+(?:;\d+ \d+)*)\t")
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+")
_NO_BLANK_BEFORE: Final = frozenset({",", ".", ";", ":", "!", "?", ")", "]", "%", "'s", "n't"})
_NO_BLANK_AFTER: Final = frozenset({"(", "["})


@dataclass(frozen=True, slots=True)
class _Sentence:
    """Rows of a CoNLL file up to a blank one, and what stands before them."""

    rows: Sequence[tuple[str, str]]  # token and tag
    number: int  # of the row behind the last
    document: str  # as a column names it
    starts: bool  # a -DOCSTART- row
    blanks: int  # blank rows


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


def read(path: Path, format_: Format, labels: Mapping[str, str], *, document_column: int | None = None) -> SiteCorpus:
    """Read a file, or all files of a folder. Raises SetupError for what is not of the format, or labels unmapped.

    `document_column`: which column of CoNLL rows, counted from 1, names the document. Where all documents would be
    kept, which happens with few of them, all are learnt from.
    """
    if document_column is not None and (format_ != "conll" or document_column < 1):
        raise SetupError("A document column is counted from 1, and only conll has columns.")
    documents = (
        _conll(path, document_column) if format_ == "conll" else {"inline": _inline, "brat": _brat}[format_](path)
    )
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
    training, kept = (training, kept) if training else (kept, [])
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
            places = [fragment.split() for fragment in match.group(2).split(";")]
            fragments = [(int(start), int(end)) for start, end in places]
            if not all(0 <= start < end <= len(text) for start, end in fragments):
                raise SetupError(f"{file.name}:{number}: the place lies outside the text")
            mentions += [Mention(match.group(1), start, end) for start, end in _joined(fragments, text)]
        yield file.stem, MarkedLine(text, tuple(mentions), "", file.name, 0)


def _joined(fragments: Sequence[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """Fragments with only blanks between them are one mention (brat cuts at line ends); others are apart.

    They are listed in any order.
    """
    first, *others = sorted(fragments)
    joined = [first]
    for start, end in others:
        if not text[joined[-1][1] : start].strip():
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _conll(path: Path, column: int | None) -> Iterator[tuple[str, MarkedLine]]:
    """Token first and tag last in a row, blank rows between sentences; BIO, IOB1, BIOES and BILOU tags.

    A document is what the column `column` names; else what begins with a -DOCSTART- row; else what two or more blank
    rows part; else a file, where there are several; else a sentence.
    """
    files = _files(path, ".conll", ".txt", ".tsv", ".bio", ".iob")
    for file in files:
        sentences = list(_sentences(file, column))
        own = file.relative_to(path).as_posix() if len(files) > 1 else file.name
        names = [one.document for one in sentences] if column else _documents(sentences, own, alone=len(files) == 1)
        for name, one in zip(names, sentences, strict=True):
            yield name, _of_rows(one.rows, file.name, one.number)


def _sentences(file: Path, column: int | None) -> Iterator[_Sentence]:
    rows: list[tuple[str, str]] = []
    document, starts, blanks = "", False, 0
    number = 0
    for number, row in enumerate(_text_of(file).splitlines(), start=1):
        columns = row.split()
        marked = columns[:1] == ["-DOCSTART-"]
        named, token, tag = ("", "", "") if marked or not columns else _row(columns, column, f"{file.name}:{number}")
        if rows and (not token or named != document):
            yield _Sentence(rows, number, document, starts, blanks)
            rows, starts, blanks = [], False, 0
        starts |= marked
        blanks += not columns
        if token:
            rows.append((token, tag))
            document = named
    if rows:
        yield _Sentence(rows, number + 1, document, starts, blanks)


def _row(columns: list[str], column: int | None, place: str) -> tuple[str, str, str]:
    """The document's name ("" where no column tells it), the token and its tag."""
    named = ""
    if column is not None:
        if len(columns) < column:
            raise SetupError(f"{place}: the row has no column {column} to name its document")
        named, columns = columns[column - 1], columns[: column - 1] + columns[column:]
    if len(columns) < 2:
        raise SetupError(f"{place}: a row needs a token and a tag")
    return named, columns[0], columns[-1]


def _documents(sentences: Sequence[_Sentence], file: str, *, alone: bool) -> list[str]:
    """The name of each sentence's document, told by marks in the file."""
    marks = [one.starts for one in sentences]
    if not any(marks):
        marks = [at > 0 and one.blanks >= _BLANK_ROWS_PART for at, one in enumerate(sentences)]
    if any(marks):
        return [f"{file}#{number}" for number in accumulate(marks, initial=0)][1:]
    return [f"{file}:{one.number}" for one in sentences] if alone else [file] * len(sentences)


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
