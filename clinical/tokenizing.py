"""What must be known of a tokenizer beyond its file: its special tokens, and whether its pieces are bytes.

A byte-level tokenizer counts the blank before a word as part of it, makes pieces of blanks alone and line breaks, cuts
one character into several pieces and one word where letters meet digits or combining marks. Here its pieces become what
`Pieces` expects: whole words at exact code points, and nothing for blanks that stand alone.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Self

from clinical.entities import PieceEncoding, Pieces

WORDPIECE: Final = "wordpiece"
BYTE_LEVEL: Final = "byte-level"


@dataclass(frozen=True, slots=True)
class TokenizerForm:
    """The special tokens around and between pieces, and the kind of the pieces."""

    opening: str = "[CLS]"
    closing: str = "[SEP]"
    padding: str = "[PAD]"
    mask: str = "[MASK]"
    kind: str = WORDPIECE

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> Self:
        """From a manifest's `tokenizer`; without one, or without all four tokens, BERT's. Raises ValueError."""
        if stored is None:
            return cls()
        kind, special = stored.get("kind", WORDPIECE), [str(token) for token in stored.get("special", [])]
        if kind not in {WORDPIECE, BYTE_LEVEL} or len(special) not in {0, 2, 4}:
            raise ValueError("not a form of a tokenizer")
        usual = cls()
        rest = (usual.opening, usual.closing, usual.padding, usual.mask)[len(special) :]
        return cls(*special, *rest, kind=str(kind))

    @property
    def special(self) -> tuple[str, str, str, str]:
        return self.opening, self.closing, self.padding, self.mask

    def pieces(self, text: str, encoding: PieceEncoding) -> Pieces:
        """The words of `text`, from its encoding without special tokens."""
        return Pieces.of(text, encoding if self.kind == WORDPIECE else _of_bytes(text, encoding))


@dataclass(frozen=True, slots=True)
class _Gathered:
    ids: list[int]
    offsets: list[tuple[int, int]]
    word_ids: list[Any]


def _of_bytes(text: str, encoding: PieceEncoding) -> _Gathered:
    found = _Gathered([], [], [])
    pieces = zip(encoding.word_ids, encoding.ids, encoding.offsets, strict=True)
    for _, together in groupby(pieces, key=lambda piece: piece[0]):
        own = [(number, _without_blanks(text, *place)) for _, number, place in together]
        stretch = text[own[0][1][0] : own[-1][1][1]]
        if not stretch.strip():
            continue  # blanks that stand alone are nothing to label, and would part the words of a mention
        word = found.word_ids[-1] if found.word_ids else -1
        if not _goes_on(text, found.offsets, own[0][1][0]):
            word += 1
        found.ids.extend(number for number, _ in own)
        found.offsets.extend(place for _, place in own)
        found.word_ids.extend([word] * len(own))
    return found


def _without_blanks(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    return start, end


def _goes_on(text: str, before: Sequence[tuple[int, int]], start: int) -> bool:
    """Whether what starts here goes on with the word that ended: 5mg, or a letter with its mark."""
    return bool(before) and before[-1][1] == start and _of_a_word(text[start - 1]) and _of_a_word(text[start])


def _of_a_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character)[0] == "M"
