"""Noise that makes a small corpus broad: what real posts and notes do to spelling, punctuation and length.

Marks move with the words, because a line is edited as a row of segments, each marked or plain. Seeded by the caller.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from training.ner.corpus import MarkedLine, Mention

Segment = tuple[str, Mention | None]  # words, and their mark; the mark's places are the line's, not the row's
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz"
_BULLETS: Final = ("- ", "* ", "• ", "1. ", "2) ", "> ")


@dataclass(frozen=True, slots=True)
class Noise:
    """How often each kind of noise strikes: a probability a line, or a mention for `swap`."""

    no_final_stop: float = 0.3
    no_apostrophes: float = 0.1
    no_commas: float = 0.05
    bullet: float = 0.04
    misspelling: float = 0.15
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
    if draw.random() < noise.no_final_stop and row[-1][1] is None:
        row[-1] = (row[-1][0].rstrip(".!"), None)
    if draw.random() < noise.bullet:
        row.insert(0, (draw.choice(_BULLETS), None))
    return row


def _misspell(row: list[Segment], draw: random.Random) -> list[Segment]:
    """One or two slips of the finger: letters swapped, lost, doubled or wrong, never in a short word's place."""
    row = list(row)
    for _ in range(draw.randint(1, 2)):
        at = draw.randrange(len(row))
        words, kind = row[at]
        spots = [i for i, (one, two) in enumerate(pairwise(words)) if i and one.isalpha() and two.isalpha()]
        if not spots:
            continue
        i = draw.choice(spots)
        slip = draw.randrange(4)
        if slip == 0:
            words = words[:i] + words[i + 1] + words[i] + words[i + 2 :]
        elif slip == 1:
            words = words[:i] + words[i + 1 :]
        elif slip == 2:
            words = words[:i] + words[i] + words[i:]
        else:
            words = words[:i] + draw.choice(_ALPHABET) + words[i + 1 :]
        row[at] = (words, kind)
    return row


def join(rows: Sequence[Sequence[Segment]]) -> list[Segment]:
    """Several lines as one note, on a line each."""
    joined: list[Segment] = []
    for row in rows:
        if joined:
            joined.append(("\n", None))
        joined.extend(row)
    return joined
