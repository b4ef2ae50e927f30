"""What must be known of a tokenizer beyond its file: its special tokens, and what its pieces are.

Byte-level and SentencePiece tokenizers count the blank before a word as part of it; the first also make pieces of
blanks alone and of line breaks, cut one character into several pieces, and one word where letters meet digits or
combining marks. Here their pieces become what `Pieces` expects: whole words at exact code points, and nothing for
blanks alone.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Self

from clinical.entities import PieceEncoding, Pieces

WORDPIECE: Final = "wordpiece"
BYTE_LEVEL: Final = "byte-level"
SENTENCEPIECE: Final = "sentencepiece"


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
        if kind not in {WORDPIECE, BYTE_LEVEL, SENTENCEPIECE} or len(special) not in {0, 2, 4}:
            raise ValueError("not a form of a tokenizer")
        opening, closing, padding, mask = (*special, *cls().special[len(special) :])
        return cls(opening, closing, padding, mask, str(kind))

    @property
    def special(self) -> tuple[str, str, str, str]:
        return self.opening, self.closing, self.padding, self.mask

    def pieces(self, text: str, encoding: PieceEncoding) -> Pieces:
        """The words of `text`, from its encoding without special tokens."""
        return Pieces.of(text, encoding if self.kind == WORDPIECE else _whole_words(text, encoding))


@dataclass(frozen=True, slots=True)
class _Gathered:
    ids: list[int]
    offsets: list[tuple[int, int]]
    word_ids: list[Any]


def _whole_words(text: str, encoding: PieceEncoding) -> _Gathered:
    found = _Gathered([], [], [])
    pieces = zip(encoding.word_ids, encoding.ids, encoding.offsets, strict=True)
    for _, together in groupby(pieces, key=lambda piece: piece[0]):
        own = [(number, _without_blanks(text, *place)) for _, number, place in together]
        if not text[own[0][1][0] : own[-1][1][1]].strip():
            continue  # blanks alone are nothing to label, and would part the words of a mention
        for number, place in own:
            word = found.word_ids[-1] if found.word_ids else 0
            new = not found.offsets or not _goes_on(text, found.offsets[-1], place[0])
            found.ids.append(number)
            found.offsets.append(place)
            found.word_ids.append(word + new)
    return found


def _without_blanks(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    return start, end


def _goes_on(text: str, before: tuple[int, int], start: int) -> bool:
    """Whether what starts here goes on with the piece before: with its character, its blank, or its word."""
    if before[1] != start:
        return start < before[1]
    return before[0] == before[1] or (_of_a_word(text[start - 1]) and _of_a_word(text[start : start + 1]))


def _of_a_word(character: str) -> bool:
    return character.isalnum() or (character != "" and unicodedata.category(character)[0] == "M")
