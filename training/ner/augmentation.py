"""Noise that makes a small corpus broad: what real posts and notes do to spelling, punctuation and length.

Marks move with the words, because a line is edited as a row of segments, each marked or plain. Seeded by the caller.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from training.ner.corpus import MarkedLine, Mention

Segment = tuple[str, Mention | None]  # words, and their mark; the mark's places are the line's, not the row's
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz"
# Headings that say nothing of what stands below them.
_HEADINGS: Final = (
    *("HPI: ", "S: ", "Subjective: ", "Note:\n", "Today: ", "Interval history: ", "Update: ", "HPI:\n"),
    *("Summary: ", "Neuro: ", "Skin: ", "Resp: ", "GI: ", "CV - ", "General: ", "Assessment: "),
)
_BETWEEN: Final = ("\n", " ", "\n- ", " - ", "; ", "\n\n")
_HOW_OFTEN: Final = (50, 30, 8, 4, 4, 4)
_MOST_HURRIED: Final = 0.25  # of the words
_LONG_WORD: Final = re.compile(r"[^\W\d_]{4,}")
_BULLETS: Final = ("- ", "* ", "• ", "1. ", "2) ", "> ")


@dataclass(frozen=True, slots=True)
class Noise:
    """How often each kind of noise strikes: a probability a line, or a mention for `swap`."""

    no_final_stop: float = 0.3
    no_apostrophes: float = 0.1
    no_commas: float = 0.05
    bullet: float = 0.04
    heading: float = 0.04
    misspelling: float = 0.15
    hurry: float = 0.08
    swap: float = 0.15


def segments(line: MarkedLine) -> list[Segment]:
    """The line as a row of (words, mark or None) that add up to its text."""
    row: list[Segment] = []
    cursor = 0
    for mention in line.mentions:
        row.append((line.text[cursor : mention.start], None))
        row.append((line.text[mention.start : mention.end], mention))
        cursor = mention.end
    return [*row, (line.text[cursor:], None)]


def from_segments(row: Sequence[Segment]) -> tuple[str, list[Mention]]:
    """The row's text and the marks in it; a segment that noise emptied marks nothing."""
    mentions, length = [], 0
    for words, mark in row:
        if mark is not None and words:
            mentions.append(replace(mark, start=length, end=length + len(words)))
        length += len(words)
    return "".join(words for words, _ in row), mentions


def mentions_by_type(lines: Sequence[MarkedLine]) -> dict[str, list[str]]:
    """Each type's different mentions, sorted, so that a seed gives the same draw everywhere."""
    found: dict[str, set[str]] = {}
    for line in lines:
        for mention in line.mentions:
            found.setdefault(mention.type, set()).add(line.text[mention.start : mention.end])
    return {kind: sorted(words) for kind, words in sorted(found.items())}


def disturb(
    row: Sequence[Segment], noise: Noise, others: Mapping[str, Sequence[str]], draw: random.Random
) -> list[Segment]:
    """The row after noise. `others` are the mentions that may stand in for a mention of their type."""
    row = [
        (draw.choice(others[mark.type]), mark) if mark is not None and draw.random() < noise.swap else (words, mark)
        for words, mark in row
    ]
    if draw.random() < noise.no_apostrophes:
        row = [(words.replace("'", "").replace("’", ""), mark) for words, mark in row]
    if draw.random() < noise.no_commas:
        row = [(words.replace(",", "") if mark is None else words, mark) for words, mark in row]
    if draw.random() < noise.misspelling:
        row = _misspell(row, draw)
    if draw.random() < noise.hurry:
        row = _in_a_hurry(row, draw)
    if draw.random() < noise.no_final_stop and row[-1][1] is None:
        row[-1] = (row[-1][0].rstrip(".!"), None)
    if draw.random() < noise.bullet:
        row.insert(0, (draw.choice(_BULLETS), None))
    if draw.random() < noise.heading:
        row.insert(0, (draw.choice(_HEADINGS), None))
    return row


def _misspell(row: list[Segment], draw: random.Random) -> list[Segment]:
    """One or two slips of the finger, never in a short word's place."""
    row = list(row)
    for _ in range(draw.randint(1, 2)):
        at = draw.randrange(len(row))
        words, mark = row[at]
        spots = [i for i, (one, two) in enumerate(pairwise(words)) if i and one.isalpha() and two.isalpha()]
        if spots:
            row[at] = (_slip(words, draw.choice(spots), draw), mark)
    return row


def _in_a_hurry(row: list[Segment], draw: random.Random) -> list[Segment]:
    """A slip in each of many long words."""
    rate = draw.uniform(0, _MOST_HURRIED)

    def of_word(found: re.Match[str]) -> str:
        word = found.group()
        return _slip(word, draw.randrange(1, len(word) - 1), draw) if draw.random() < rate else word

    return [(_LONG_WORD.sub(of_word, words), mark) for words, mark in row]


def _slip(words: str, at: int, draw: random.Random) -> str:
    """A letter changed places with the next, lost, doubled or wrong."""
    kind = draw.randrange(4)
    if kind == 0:
        return words[:at] + words[at + 1] + words[at] + words[at + 2 :]
    if kind == 1:
        return words[:at] + words[at + 1 :]
    if kind == 2:
        return words[:at] + words[at] + words[at:]
    return words[:at] + draw.choice(_ALPHABET) + words[at + 1 :]


def join(rows: Sequence[Sequence[Segment]], draw: random.Random) -> list[Segment]:
    """Several lines as one note: on a line each, as items, or as sentences that have nothing to do with each other."""
    joined: list[Segment] = []
    between = draw.choices(_BETWEEN, _HOW_OFTEN)[0]
    for row in rows:
        if joined:
            ends = between != " " or "".join(words for words, _ in joined[-2:]).rstrip().endswith((".", "!", "?"))
            joined.append((between if ends else ". ", None))
        joined.extend(row)
    return joined
