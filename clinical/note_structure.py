"""What a note is made of: sections, items, keys with their values, questions with their answers, boxes and signs.

A reader of sentences takes "Skin: no rash" for one sentence about skin, and three lines for one. This pass cuts any
text into statements before anything is judged: whoever reads one needs nothing of its neighbours. A heading on a line
of its own reaches to the next heading or blank line, one with something behind it to the end of its line. A line goes
on with the one before only where that one was left open: by a comma, a word that wants another, or by being full.

Pure; time grows with the text and with nothing else; places are code points of the original, and the statements cover
it once. What is read is the text as `plain` of clinical.markup gives it.
"""

import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from clinical.note_answers import (
    ANSWER,
    BOX,
    CELL,
    IS_BEHIND,
    ROW,
    SAID,
    SIGN,
    SINGLE_LETTERS,
    WORD_BOXES,
    YES_NO_BOXES,
    Answer,
    answer_of,
    answers_behind,
    signs_before,
    skip,
    yes_no_boxes,
)
from clinical.note_headings import ORGANS, SAID_BY, SECTIONS, Section, verdict_of, word_set

_LONGEST_KEY: Final = 60
_MOST_KEY_WORDS: Final = 10
_FULL_LINE: Final = 60
_FULL_WITH_NAME: Final = 68
_LONG_LINE: Final = 40
_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")
_BULLET: Final = re.compile(r"[ \t]*(?:[-*•·‣▪◦–—>]|\d{1,2}[.)]|[a-h][.)])[ \t]+(?=\S)")
_INNER_BULLET: Final = re.compile(r"(?<=[\s])[-*•·‣▪◦–—](?=[ \t]+\S)")
_INNER_NUMBER: Final = re.compile(r"(?<=[\s])\d{1,2}[.)](?=[ \t]+\S)")
# A line that ends with an answer is done, and one that begins so says something of its own.
_ANSWERED: Final = re.compile(
    rf"(?:{BOX.pattern})[ \t]*(?:yes|no|y|n)[ \t]*$|(?:yes|no|y|n)[ \t]?\[[xX ]?\]$|[\s\w)][+−-]{{1,3}}$|[✗✘❌✓✔]$"
    r"|\b(?:nil|none|yes|neg|negative|pos|positive|denied|[+-]ve)$|(?:[:|?.\t]|[ ][-–—]|[ ]{2})[ \t]*(?:no|n|y|denies)$"
    r"|^.{0,32}[ ]no$",
    re.IGNORECASE,
)
_BEGINS_ANEW: Final = re.compile(r"(?:[hcrs]/o|k/c/o|s/p|o/e|c/w|hx|pmh|no|nil|denies)\b", re.IGNORECASE)
_OPEN_END: Final = frozenset(",(/&")
_WANTS_MORE: Final = word_set("""
    and or nor with of the a an to for in on at by from no denies denied without any his her my their as is was were has
    had have not than but that which who because since while plus vs including
""")
_GOES_ON: Final = word_set("and or nor but because which that who than although")
_SIGNED_LINE: Final = re.compile(r"^[ \t]*([+-])[ \t]?[A-Za-z]", re.MULTILINE)
_SIGN_OF_LINE: Final = re.compile(r"[ \t]*([+−-])[ \t]?(?=[A-Za-z])(?!ve\b)")
_AROUND_NAME: Final = " \t\r\n*=_#[]()-–—.:"
# Where what a sign before a finding says ends: at the sentence's end, and where words say something themselves.
_SAYS_ITSELF: Final = re.compile(
    r"[.;](?=\s)|,[ \t]*(?:and[ ]|but[ ])?"
    r"(?=(?:no|nil|denie[sd]|denying|negative|neg|without|not|never|has|had|is)\b)|\b(?=but\b)",
    re.IGNORECASE,
)
_SENTENCE_END: Final = re.compile(r"[.!?;](?=\s|$)")


@dataclass(frozen=True, slots=True)
class Statement:
    """The stretch [start, end) of a text, in code points.

    `label` is where the words before its colon end, or `start` where there are none. `said` is what a box, a sign or an
    answer says of everything in it; `asked` tells that the words themselves are a question.
    """

    start: int
    end: int
    section: Section | None = None
    label: int = 0
    said: Answer | None = None
    asked: bool = False


def statements(text: str) -> list[Statement]:
    """What the text says, in order. `text` is as `plain` gives it."""
    return list(_Cutter(text).statements())


class _Cutter:
    """Goes through one text from its start to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        letter = next((sign for sign in text[:_FULL_LINE] if sign.isalpha()), "")
        # Where some lines begin with a plus, a dash at the begin of another is a minus.
        self._signed_lines = {"+", "-"} <= {found.group(1) for found in _SIGNED_LINE.finditer(text)}
        self._in_single_letters = SINGLE_LETTERS.search(text) is not None
        self._in_lower_case = letter.islower()  # a text that begins so says nothing by a line that does
        self._section: Section | None = None
        self._of_line = False  # the section ends with its line
        self._under: Answer | None = None  # what a heading on a line of its own says of all below it

    def statements(self) -> Iterator[Statement]:
        at = 0
        for start, end in self._paragraph_lines():
            for statement in self._line(start, end):
                if statement.start > at:  # blanks between the pieces go to the one before them
                    yield Statement(at, statement.start, None, at)
                yield statement
                at = statement.end
        if at < len(self._text):
            yield Statement(at, len(self._text), None, at)

    def _paragraph_lines(self) -> Iterator[tuple[int, int]]:
        """Lines, with those that only wrapped joined to the one before."""
        text = self._text
        start = end = 0
        longest = 0
        open_line = ""
        for found in _LINE.finditer(text):
            line = found.group().strip()
            if not line:
                if end > start:
                    yield start, end
                start = end = found.end()
                open_line, longest = "", 0
                self._section = self._under = None
                continue
            if open_line and not self._goes_on(open_line, line, longest):
                yield start, end
                start = found.start()
            end = found.end()
            open_line = line
            longest = max(longest, len(line))
        if end > start:
            yield start, end

    def _goes_on(self, before: str, line: str, longest: int) -> bool:
        answers = before[-1] == "?" and ANSWER.match(line) is not None
        if not answers and any(mark.match(line) for mark in (_BULLET, BOX, SIGN, _BEGINS_ANEW)):
            return False
        if answers or before[-1] in _OPEN_END:
            return True
        first, last = line.split(None, 1)[0].lower(), before.rsplit(None, 1)[-1].lower()
        if before[-1] in ".!?;:" or _ANSWERED.search(before) or _key_of(line) is not None:
            return False
        if last in _WANTS_MORE and ":" not in before[-8:]:
            return True
        if line[0].islower() and (first in _GOES_ON or (len(before) >= _LONG_LINE and not self._in_lower_case)):
            return True
        # A capital begins a line, or a name in the middle of a full one; in lower case every line may be a new one.
        fuller = line[0].isupper() or self._in_lower_case
        full, eighths = (_FULL_WITH_NAME, 7) if fuller else (_FULL_LINE, 6)
        return len(before) >= full and len(before) * 8 >= longest * eighths

    def _line(self, start: int, end: int) -> Iterator[Statement]:
        if self._of_line:
            self._section, self._of_line = None, False
        heading = self._text[start:end].strip(_AROUND_NAME)
        if 1 < len(heading) <= _LONGEST_KEY and (_name(heading) in SECTIONS or _name(heading) in SAID_BY):
            self._enter(_name(heading), alone=True)
            yield Statement(start, end, self._section, end)
            return
        for first, stop in self._items(start, end):
            yield from self._item(first, stop)

    def _items(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut a line at the bullets, numbers or boxes inside it."""
        text = self._text
        line = text[start:end]
        cuts: list[int] = []
        cells = [found.start() for found in CELL.finditer(line) if SAID.match(line, found.end()) is None]
        if cells:
            bounds = [0, *cells, len(line)]
            for first, stop in pairwise(bounds):
                yield start + first, start + stop
            return
        boxes = [found for found in BOX.finditer(line) if IS_BEHIND.match(line, found.start()) is None]
        if boxes and WORD_BOXES.search(line) is None:
            cuts = [found.start() for found in boxes if not YES_NO_BOXES.match(line, found.end())]
        if not cuts:
            bullet = _BULLET.match(line)
            after_key = _after_key(line)
            listed = bullet is not None or (after_key is not None and _BULLET.match(line, after_key) is not None)
            if listed:
                inner = _INNER_NUMBER if _numbered(line, 0 if bullet else after_key or 0) else _INNER_BULLET
                cuts = [found.start() for found in inner.finditer(line) if not SAID.match(line, found.end())]
        bounds = [0, *(at for at in cuts if at > 0), len(line)]
        for first, stop in pairwise(bounds):
            yield start + first, start + stop

    def _item(self, start: int, end: int) -> Iterator[Statement]:
        text = self._text
        box = BOX.match(text, skip(text, start), end)
        if box is not None and not YES_NO_BOXES.match(text, box.end()):
            ticked = any(group and group.strip() for group in box.groups())
            yield Statement(start, end, self._section, box.end(), "yes" if ticked else "no")
            return
        sign = _SIGN_OF_LINE.match(text, start, end) if self._signed_lines and _begins_line(text, start) else None
        if sign is not None and not signs_before(self._text, sign.end(), end):
            yield from self._signed(start, end, [(start, "yes" if sign.group(1) == "+" else "no")])
            return
        boxes = WORD_BOXES.search(text, start, end)
        if boxes is not None and bool(boxes[2]) != bool(boxes[4]):
            word = boxes[1] if boxes[2] else boxes[3]
            yield Statement(
                start, boxes.end(), self._section, start, "yes" if word.lower()[0] == "y" else "no", asked=True
            )
            if boxes.end() < end:
                yield from self._spoken(boxes.end(), end)
            return
        pair = next((found for found in BOX.finditer(text, start, end) if YES_NO_BOXES.match(text, found.end())), None)
        if pair is not None and ":" not in text[start : pair.start()]:
            said, after = yes_no_boxes(text, pair.start(), end) or (None, pair.end())
            yield Statement(start, after, self._section, start, said, asked=True)
            if after < end:
                yield from self._item(after, end)
            return
        signs = signs_before(self._text, start, end)
        if signs:
            yield from self._signed(start, end, signs)
            return
        behind = answers_behind(text, start, end, weak_too=self._in_single_letters)
        at = start
        for first, stop, answer in behind:
            if first > at:
                yield from self._spoken(at, first)
            yield Statement(first, stop, self._section, first, answer)
            at = stop
        if at < end:
            yield from self._spoken(at, end)

    def _signed(self, start: int, end: int, signs: Sequence[tuple[int, Answer]]) -> Iterator[Statement]:
        """Each sign's findings, and the words between that say something themselves."""
        bounds = [start, *(at for at, _ in signs if at > start), end]
        said = dict(signs)
        for first, stop in pairwise(bounds):
            if first not in said:
                yield from self._spoken(first, stop)
                continue
            itself = _SAYS_ITSELF.search(self._text, first, stop)
            until = itself.end() if itself is not None else stop
            yield Statement(first, until, self._section, first, said[first])
            if until < stop:
                yield from self._spoken(until, stop)

    def _spoken(self, start: int, end: int) -> Iterator[Statement]:
        """Cut at keys with their values and at questions with their answers."""
        at = start
        while at < end:
            row = self._row(at, end)
            if row is not None:
                yield row
                at = row.end
                continue
            if (dash := self._heading_with_dash(at, end)) is not None:
                at = yield from self._keyed(skip(self._text, at), dash, end)
                continue
            key = self._next_key(at, end)
            question = self._next_question(at, key[1] if key is not None else end, end)
            if question is not None:
                asked_from, after, said = question
                if asked_from > at:
                    yield Statement(at, asked_from, self._section, at)
                yield Statement(asked_from, after, self._section, asked_from, said, asked=True)
                at = after
                continue
            if key is None:
                yield Statement(at, end, self._section, at, self._under)
                return
            label, colon = key
            if label > at:
                yield Statement(at, label, self._section, at)
            at = yield from self._keyed(label, colon, end)

    def _row(self, start: int, end: int) -> Statement | None:
        """A row of a form that begins here, with nothing but its answer behind the name."""
        row = ROW.match(self._text, start, end)
        said = SAID.match(self._text, row.end(), end) if row is not None else None
        if row is None or said is None:
            return None
        return Statement(start, said.end(), self._section, start, answer_of(said))

    def _heading_with_dash(self, start: int, end: int) -> int | None:
        """Where the dash stands of "PMH - asthma" that begins here."""
        row = ROW.match(self._text, start, end)
        return row.end(1) if row is not None and _name(row.group(1)) in SECTIONS else None

    def _keyed(self, label: int, colon: int, end: int) -> Generator[Statement, None, int]:
        """One key and what is said behind it, up to where the next begins. Returns that place."""
        text = self._text
        name = _name(text[label:colon])
        alone = _skip_marks(text, colon, end) >= end
        self._enter(name, alone=alone)
        verdict = verdict_of(name)
        if verdict is not None and not alone:
            sentence = _SENTENCE_END.search(text, colon + 1, end)
            stop = min(sentence.end() if sentence else end, (self._next_key(colon + 1, end) or (end, end))[0])
            yield Statement(label, stop, self._section, label, verdict)
            return stop
        said, after = self._said(colon + 1, end)
        if said is not None:
            yield Statement(label, after, self._section, label, said)
            return after
        key = self._next_key(colon + 1, end)
        question = self._next_question(colon + 1, key[1] if key is not None else end, end)
        stop = min(question[0] if question is not None else end, key[0] if key is not None else end)
        if stop <= colon + 1 and question is not None:  # "Q: Any cough? No"
            _, after, answer = question
            yield Statement(label, after, self._section, colon + 1, answer, asked=True)
            return after
        yield Statement(label, stop, self._section, colon + 1)
        return stop

    def _said(self, start: int, end: int) -> tuple[Answer | None, int]:
        """What stands behind a colon, where it is nothing but an answer; and where that ends."""
        text = self._text
        boxes = yes_no_boxes(text, start, end)
        if boxes is not None:
            return boxes
        found = SAID.match(text, start, end)
        if found is None:
            return None, start
        return answer_of(found), found.end()

    def _enter(self, name: str, *, alone: bool) -> None:
        section = SECTIONS.get(name)
        self._under = verdict_of(name) if alone else None
        if section is not None:
            self._section, self._of_line = section, not alone
        elif name in ORGANS:
            if self._section not in ("review", "exam"):
                self._section = None
        elif self._of_line:
            self._section = None

    def _next_key(self, start: int, end: int) -> tuple[int, int] | None:
        """The next words before a colon: where they begin, and the colon."""
        text = self._text
        at = start
        while (colon := text.find(":", at, end)) >= 0:
            at = colon + 1
            if at < end and not (text[at].isspace() or text[at] in "[☐☑☒(-+−"):
                continue
            low = max(start, colon - _LONGEST_KEY)
            stretch = text[low:colon]
            ends = [found.end() for found in _SENTENCE_END.finditer(stretch)]
            begin = low + (ends[-1] if ends else 0)
            if start > 0 and low == start and not ends:
                comma = text.rfind(",", begin, colon)
                if comma >= 0 and SAID.match(text, start) is None and self._after_colon(start):
                    begin = comma + 1
            bullet = _BULLET.match(text, begin, colon)
            begin = _skip_marks(text, bullet.end() if bullet is not None else begin, colon)
            words = text[begin:colon].split()
            if not words or not words[0][0].isalpha():
                continue
            known = self._known_suffix(begin, colon)
            if known is not None:
                return known, colon
            if len(words) <= _MOST_KEY_WORDS and (low == start or ends):
                return begin, colon
        return None

    def _after_colon(self, start: int) -> bool:
        return self._text[start - 1] == ":"

    def _known_suffix(self, begin: int, colon: int) -> int | None:
        """Where a known heading begins, if the words before the colon end with one."""
        words = list(re.finditer(r"\S+", self._text[begin:colon]))
        for count in range(min(5, len(words)), 0, -1):
            first = begin + words[-count].start()
            name = _name(self._text[first:colon])
            whole = count == len(words)
            if name in SECTIONS and (whole or (len(name) > 1 and self._text[first].isupper())):
                return first
        return None

    def _next_question(self, start: int, stop: int, end: int) -> tuple[int, int, Answer] | None:
        """A question that is answered: where it begins, where the answer ends, and the answer."""
        text = self._text
        at = start
        while (mark := text.find("?", at, stop)) >= 0:
            at = mark + 1
            said, after = yes_no_boxes(text, mark + 1, end) or (None, mark)
            answer = ANSWER.match(text, mark + 1, min(end + 40, len(text)))
            if said is None and answer is not None and answer.end() <= end:
                said, after = answer_of(answer), answer.end()
            if said is not None:
                before = [found.end() for found in _SENTENCE_END.finditer(text, start, mark)]
                return skip(text, before[-1] if before else start), after, said
        return None


def _begins_line(text: str, at: int) -> bool:
    return not text[max(text.rfind("\n", 0, at), 0) : at].strip()


def _numbered(line: str, at: int) -> bool:
    found = _BULLET.match(line, at)
    return found is not None and any(sign.isdigit() for sign in found.group())


def _after_key(line: str) -> int | None:
    colon = line.find(":", 0, _LONGEST_KEY)
    return colon + 1 if colon > 0 else None


def _key_of(line: str) -> str | None:
    """The name before a line's first colon, if it looks like a heading or a key."""
    colon = line.find(":", 0, _LONGEST_KEY)
    if colon < 1 or not line[0].isalpha() or any(sign in line[:colon] for sign in ".;!?"):
        return None
    return line[:colon] if len(line[:colon].split()) <= _MOST_KEY_WORDS else None


def _name(words: str) -> str:
    return " ".join(words.lower().replace("*", " ").replace("_", " ").split())


def _skip_marks(text: str, at: int, end: int) -> int:
    while at < end and not text[at].isalnum():
        at += 1
    return at
