"""Abbreviations that a text defines itself: "congestive heart failure (CHF)" says what CHF is from there on.

The short form in brackets is tied to the words before it by Schwartz and Hearst's algorithm (A simple algorithm for
identifying abbreviation definitions in biomedical text, PSB 2003). It is then what its long form is, wherever it
stands: of the same type, or no mention at all where the long form is none. A model that sees three capital letters in
brackets can only guess.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from clinical.entities import ScoredSpan

_MOST: Final = 50  # definitions of one text
_BRACKETS: Final = re.compile(r"\(([^()\n]{2,16})\)")
_SHORT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9./&'’+-]*(?: [A-Za-z0-9./-]+)?")
_WORD: Final = re.compile(r"[^\s]+")
_STOPS: Final = re.compile(r"[.;:!?\n]\s|[()]")


@dataclass(frozen=True, slots=True)
class Definition:
    """A short form, and the stretch [start, end) of the words that it stands for, in code points."""

    short: str
    start: int
    end: int


def definitions(text: str) -> list[Definition]:
    """What a text defines, each short form once, the first time."""
    found: dict[str, Definition] = {}
    for brackets in _BRACKETS.finditer(text):
        short = brackets.group(1).strip()
        if len(found) == _MOST or short in found or not _may_be_short(short):
            continue
        start = _begin_of_long(text, brackets.start(), short)
        if start is not None:
            found[short] = Definition(short, start, len(text[: brackets.start()].rstrip()))
    return list(found.values())


def settle(text: str, found: Sequence[ScoredSpan]) -> list[ScoredSpan]:
    """The mentions of a text with each defined short form as its long form is."""
    defined = definitions(text) if "(" in text else []
    if not defined:
        return list(found)
    meaning = {one.short: _mention_of(one, found) for one in defined}
    shorts = "|".join(re.escape(short) for short in sorted(meaning, key=len, reverse=True))
    places = {
        (match.start(), match.end()): match.group() for match in re.finditer(rf"(?<![\w-])(?:{shorts})(?![\w-])", text)
    }
    settled = []
    for span in found:
        short = places.pop((span.start, span.end), None)
        if short is None:
            settled.append(span)
        elif (long := meaning[short]) is not None:
            settled.append(replace(span, type=long.type))
    taken = sorted((span.start, span.end) for span in settled)
    for (start, end), short in places.items():
        if (long := meaning[short]) is not None and not any(s < end and start < e for s, e in taken):
            settled.append(ScoredSpan(long.type, start, end, long.score))
    return sorted(settled, key=lambda span: span.start)


def _may_be_short(short: str) -> bool:
    return (
        2 <= len(short) <= 10
        and _SHORT.fullmatch(short) is not None
        and sum(sign.isupper() for sign in short) * 2 >= sum(sign.isalpha() for sign in short) > 0
    )


def _begin_of_long(text: str, bracket: int, short: str) -> int | None:
    """Where the words that a short form stands for begin; None where they are none."""
    low = max(0, bracket - 200)
    for stop in _STOPS.finditer(text, low, bracket):
        low = stop.end()
    words = [match.start() for match in _WORD.finditer(text, low, bracket)]
    signs = [sign.lower() for sign in short if sign.isalnum()]
    if not words:
        return None
    low = words[-min(len(words), len(signs) + 5, 2 * len(signs))]
    at = bracket - 1
    for number, sign in enumerate(reversed(signs)):
        first = number == len(signs) - 1
        while at >= low and (text[at].lower() != sign or (first and at > low and text[at - 1].isalnum())):
            at -= 1
        if at < low:
            return None
        at -= 1
    start = at + 1
    return start if bracket - start > len(short) + 1 else None


def _mention_of(one: Definition, found: Sequence[ScoredSpan]) -> ScoredSpan | None:
    """The mention that the long form is, which ends where it does."""
    return next((span for span in found if span.start < one.end <= span.end + 1 and span.end > one.start), None)
