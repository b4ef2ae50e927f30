"""Whether a mention is the patient's and is so now: present, negated, possible, hypothetical, historical or family.

ConText (Harkema et al. 2009) with changes that its users ask for: a negation reaches over a whole list but not into
the next clause, parentheses keep their own scope, words inside a mention are never triggers ("no appetite" is not a
negation). What is read is one statement of the note's structure after the other: nothing reaches from one into the
next, and sections, boxes and answers count. One pass over the words and one back from trailing triggers: time grows
with the text and with nothing else. It keeps no text and raises nothing.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, Literal, Protocol

from clinical.assertion_scope import Match, Scope, Scopes, Segment, apply, cover, end_clause
from clinical.assertion_triggers import (
    AFFIRMING,
    AUXILIARIES,
    HAVING,
    PATIENT,
    RELATIVE_PRONOUNS,
    SLIPS,
    TRIGGERS,
    VERBS,
    WHEN_NEEDED,
    Category,
    Trigger,
)
from clinical.entities import FINDINGS, Assertion, By, Ruling
from clinical.markup import plain
from clinical.note_headings import OF_NOW, Section
from clinical.note_structure import Statement, statements

_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|\n|[^\w\s]|_")
_WHEN_NEEDED = re.compile(r"\b(?:prn|p\.r\.n\.?|as needed|when needed|if needed)(?!\w)", re.IGNORECASE)
_RESULT = re.compile(r"(?:[−-]ve|\(-\)|\b(?:negative|neg|0)|[A-Za-z][ ]?[−-])[ \t]*[,;.\n]*\s*$", re.IGNORECASE)
_PERSISTS = re.compile(r"[ ](?:persist|continue|remain|worsen|is present|are present|present|noted|ongoing|heard|seen)")
_AGAINST = re.compile(r"[ ](?:vs|versus)\b")
_NOTHING_BEFORE = re.compile(r"(?:^|[.!?;\n][ \t]*|[\n][ \t]*(?:\d{1,2}[.)]|[-*•])[ \t]+)$")
_RESULT_CHARACTERS: Final = 20
_YEAR = re.compile(r"(?:19|20)\d\d")
_STOPS: Final = frozenset(".!?;")
_NO_STOP_AFTER: Final = frozenset({"dr", "mr", "mrs", "ms", "vs", "approx", "e", "g", "i", "st", "q", "b", "t"})
_SPLITS: Final = frozenset({",", "and", "&", "-", "–", "—", "but", "plus"})
_RESULTS: Final = frozenset({"negative", "neg", "normal", "unremarkable"})
_ORDERED: Final = frozenset({"TEST", "PROCEDURE", "MEDICATION"})
# Words of a plan's item that say that it goes on or is done already.
_UNDER_WAY: Final = frozenset(
    [
        *("continue", "cont", "continued", "continuing", "increase", "increased", "decrease", "decreased", "reduce"),
        *("titrate", "taper", "given", "done", "completed", "started", "pending", "today", "stop", "stopped", "hold"),
        *("held", "keep", "remain", "remains", "maintain"),
    ]
)
_NO_FINDINGS: Final = frozenset({"TEST", "PROCEDURE", "MEDICATION", "DOSAGE", "DURATION"})
_MOST_BETWEEN: Final = 6  # words between who has it and what
_ARTICLES: Final = frozenset({"a", "an", "the", "some", "this", "ongoing", "new", "worsening"})
_LONGEST: Final = max(len(words) for words in TRIGGERS)
_FIRST_WORDS: Final = frozenset(words[0] for words in TRIGGERS)


_OF_SECTION: Final[dict[Section, Category]] = {
    "past": "historical",
    "family": "family",
    "instructions": "hypothetical",
}
# A sentence that begins so is about today, in whatever section it stands.
_NOW: Final = frozenset(["today", "currently", "now", "presently", "tonight", "presents", "presenting"])
_STAYS: Final[frozenset[Category]] = frozenset({"family", "historical"})  # under an answer


class Place(Protocol):
    """A mention as this module sees it."""

    @property
    def type(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


def classify(text: str, places: Sequence[Place], parts: Sequence[Statement] | None = None) -> list[Assertion]:
    """The assertion of each mention in `text`; the mentions don't overlap, in any order.

    `parts` are the statements of `plain(text)`, where somebody has them already.
    """
    return [ruling.assertion for ruling in rulings(text, places, parts)]


def rulings(text: str, places: Sequence[Place], parts: Sequence[Statement] | None = None) -> list[Ruling]:
    """As `classify`, with what each assertion goes by."""
    if not places:
        return []
    text = plain(text)
    return _Reading(text, places).rulings(statements(text) if parts is None else parts)


class _Reading:
    """One text's tokens, with the mention each belongs to (or -1)."""

    def __init__(self, text: str, places: Sequence[Place]) -> None:
        self.text = text
        self.places = places
        matches = list(_TOKEN.finditer(text))
        self.starts = [match.start() for match in matches]
        self.ends = [match.end() for match in matches]
        self.words = [_plain(match.group()) for match in matches]
        self.mention = [-1] * len(matches)
        self.first_token: dict[int, int] = {}
        self._lay_mentions()
        self.found: list[set[Category]] = [set() for _ in places]
        self.by: list[By] = ["nothing"] * len(places)

    def _lay_mentions(self) -> None:
        order = sorted(range(len(self.places)), key=lambda index: self.places[index].start)
        token = 0
        for index in order:
            place = self.places[index]
            while token < len(self.words) and self.ends[token] <= place.start:
                token += 1
            self.first_token[token] = index
            while token < len(self.words) and self.starts[token] < place.end:
                self.mention[token] = index
                token += 1

    def rulings(self, parts: Sequence[Statement]) -> list[Ruling]:
        left: Section | None = None  # a section that a sentence about today ended
        for part in parts:
            first, end = bisect_left(self.starts, part.start), bisect_left(self.starts, part.end)
            if part.label > part.start or part.section != left:
                left = None
            label = bisect_left(self.starts, part.label)
            for begin, stop in self._sentences(first, end):
                spoken = max(begin, label)
                if part.section is not None and _NOW & set(self.words[spoken : min(spoken + 3, stop)]):
                    left = part.section
                if part.section == "family" and PATIENT & set(self.words[spoken : min(spoken + 2, stop)]):
                    left = part.section
                if part.section == "plan":
                    self._plan(spoken, stop)
                if any(index >= 0 for index in self.mention[begin:stop]):
                    section = None if part.section is None or part.section == left else part.section
                    self._read_sentence(begin, stop, label, _OF_SECTION.get(section) if section else None)
                    self._hold_against(part, begin, stop)
                    if part.section in OF_NOW:
                        self._stand_by_itself(begin, stop)
        for index, place in enumerate(self.places):
            if place.type in FINDINGS and not self.found[index] and self.by[index] == "nothing":
                self._doubt(index)
            if place.type in _ORDERED and "negated" in self.found[index]:
                self.found[index].discard("hypothetical")  # "offered, declined"
        return [Ruling(_strongest(found), self._goes_by(index)) for index, found in enumerate(self.found)]

    def _goes_by(self, index: int) -> By:
        return "words" if self.found[index] and self.by[index] == "nothing" else self.by[index]

    def _doubt(self, index: int) -> None:
        """What stands beside "vs", and what is all that a question asks, may be."""
        start, end = self.places[index].start, self.places[index].end
        asked = self.text.startswith("?", end) and _NOTHING_BEFORE.search(self.text, max(0, start - 8), start)
        if asked or _AGAINST.match(self.text, end):
            self.found[index].add("possible")
        elif _PERSISTS.match(self.text, end):
            self.by[index] = "words"

    def _stand_by_itself(self, first: int, end: int) -> None:
        """What stands under a heading of what is now says so by where it stands."""
        for index in {index for index in self.mention[first:end] if index >= 0}:
            if self.by[index] == "nothing" and not self.found[index]:
                self.by[index] = "words"

    def _plan(self, first: int, end: int) -> None:
        """An item of a plan is not done yet, unless it says so."""
        begin = first
        for token in range(first, end + 1):
            if token < end and self.words[token] not in {",", ";"}:
                continue
            if not _UNDER_WAY & set(self.words[begin:token]):
                for index in {index for index in self.mention[begin:token] if index >= 0}:
                    if self.places[index].type in _ORDERED:
                        self.found[index].add("hypothetical")
                        self.by[index] = "structure"
            begin = token + 1

    def _hold_against(self, part: Statement, first: int, end: int) -> None:
        """What stands beside the words: an answer, a box."""
        for token in range(first, end):
            index = self.first_token.get(token)
            if index is None:
                continue
            found = self.found[index]
            if part.said is None:
                continue
            self.by[index] = "structure"
            if part.asked or part.label == part.start:  # words that are nothing but the name of what is answered
                found &= _STAYS
            if part.said == "no" and not (self.places[index].type == "TEST" and self._is_result(part)):
                found.add("negated")
            elif part.said == "maybe":
                found.add("possible")

    def _is_result(self, part: Statement) -> bool:
        """Whether a statement ends with a test's result: "HIV -ve" was done."""
        return _RESULT.search(self.text, max(part.start, part.end - _RESULT_CHARACTERS), part.end) is not None

    def _sentences(self, first: int, end: int) -> Iterable[tuple[int, int]]:
        """Token ranges of the sentences between two tokens."""
        begin = first
        for token in range(first, end):
            if self._stops(token):
                yield begin, token
                begin = token + 1
        yield begin, end

    def _stops(self, token: int) -> bool:
        word = self.words[token]
        if word not in _STOPS or self.mention[token] >= 0:
            return False
        after = self.text[self.ends[token] : self.ends[token] + 1]
        before = self.words[token - 1] if token else ""
        if word == "?" and after and not after.isspace():
            return False  # "?pneumonia"
        if word == ".":
            return (not after or after.isspace()) and before not in _NO_STOP_AFTER
        return True

    def _matches(self, first: int, end: int) -> list[Match]:
        """The longest trigger at each place, none overlapping another or a mention."""
        found = []
        token = first
        while token < end:
            match = self._match_at(token, first, end) if self.words[token] in _FIRST_WORDS else None
            if match is None:
                token += 1
                continue
            found.append(match)
            token = match.end
        return found

    def _match_at(self, token: int, first: int, end: int) -> Match | None:
        for length in range(min(_LONGEST, end - token), 0, -1):
            stop = token + length
            trigger = TRIGGERS.get(tuple(self.words[token:stop]))
            if trigger is None or (trigger.opens_sentence and token != first):
                continue
            if trigger.category == "historical" and self._follows_duration(token):
                continue  # "a ten-day history of chest pain" is what there is now
            if max(self.mention[token:stop]) < 0:
                return Match(token, stop, trigger, self._points_back(token, stop, end, trigger))
        return None

    def _follows_duration(self, token: int) -> bool:
        return token > 0 and self.mention[token - 1] >= 0 and self.places[self.mention[token - 1]].type == "DURATION"

    def _points_back(self, first: int, stop: int, end: int, trigger: Trigger) -> bool:
        if trigger.direction != "either":
            return trigger.direction == "backward"
        token = first - 1
        while token >= 0 and (self.words[token] in AUXILIARIES or self.words[token] == ")") and self.mention[token] < 0:
            token -= 1
        if token < 0 or self.mention[token] < 0:
            return False
        if trigger.category == "hypothetical" and self.places[self.mention[token]].type in _NO_FINDINGS:
            return False  # an order says when it is for: "ibuprofen prn for pain"
        if self.words[first] == "no" and stop - first == 1 and stop < end and self.words[stop] not in _SPLITS:
            return False  # "swelling has no associated redness"
        verb = any(word.isalpha() for word in self.words[token + 1 : first])
        if stop < end and self.mention[stop] >= 0:
            return verb  # between two mentions it belongs to the next one, unless a verb ties it to the one before
        return True

    def _segments(self, first: int, end: int, matches: Sequence[Match]) -> list[Segment]:
        """Cut a sentence at commas and conjunctions."""
        in_trigger = {token for match in matches for token in range(match.first, match.end)}
        segments = [Segment(first, end)]
        for token in range(first, end):
            word = self.words[token]
            if self.mention[token] >= 0:
                segments[-1].subject |= not segments[-1].verb
                continue
            if word in _SPLITS and token > first:
                segments[-1].end = token
                segments.append(Segment(token, end))
            elif token in in_trigger:
                segments[-1].trigger = True
            elif word in VERBS:
                segments[-1].verb = True
            elif word in {"or", "nor"}:
                segments[-1].alternative |= not segments[-1].verb
            elif not segments[-1].verb and word.isalpha() and word not in {"also", "then", "still", "now"}:
                segments[-1].subject = True
        return segments

    def _read_sentence(self, first: int, end: int, label: int, section: Category | None) -> None:
        # A heading is no sentence: "history of present illness" says nothing of history. "Mother:" says whose it is.
        matches = [m for m in self._matches(first, end) if m.first >= label or m.trigger.category == "family"]
        segments = self._segments(first, end, matches)
        self._sweep_forward(first, end, matches, segments, section)
        self._affirm(matches, segments)
        previous_end = first
        for match in matches:
            if match.backward:
                self._sweep_back(match, previous_end, segments)
                previous_end = match.end

    def _sweep_forward(
        self, first: int, end: int, matches: Sequence[Match], segments: Sequence[Segment], section: Category | None
    ) -> None:
        """Walk to the right with the triggers that are in force."""
        at = {match.first: match for match in matches}
        opening = {segment.first: segment for segment in segments[1:]}
        active: Scopes = {}
        outside: Scopes = {}
        last: Match | None = None
        affirmed = False
        for token in range(first, end):
            segment, word = opening.get(token), self.words[token]
            if segment is not None and segment.verb and not segment.alternative:
                end_clause(active, segment)
            if word == "(":
                outside = dict(active)
            elif word == ")":
                active = outside
            elif self.mention[token] < 0:
                active = {kind: scope for kind, scope in active.items() if scope.holds_over(kind, word)}
            match = at.get(token)
            if match is not None:
                if not match.backward:
                    apply(active, match.trigger, before=last if last is not None and last.end == token else None)
                    affirmed = match.trigger.category == "none" and bool(match.trigger.ends)
                last = match
            index = self.first_token.get(token)
            if index is not None:
                self._say(index, active, section, before=token - 1 if token > first else -1)
                if (affirmed or self._is_had(token, first)) and self.by[index] == "nothing":
                    self.by[index] = "words"

    def _say(self, index: int, active: Scopes, section: Category | None, *, before: int) -> None:
        """Give a mention what is in force; `before` is the token before it in its sentence, or -1."""
        word = self.words[before] if before >= 0 else ""
        if self.places[index].type == "TEST" and word in _RESULTS:
            active.pop("negated", None)  # "negative culture" was done
        cover(active, self.places[index].type, word)
        ordered = self.places[index].type in _ORDERED
        self.found[index].update(kind for kind, scope in active.items() if ordered or not scope.trigger.orders_only)
        if section is not None and not (section == "hypothetical" and "negated" in active):
            self.found[index].add(section)
            self.by[index] = "structure"
        if self._is_when_needed(index):
            what_for = self.mention[before] if before >= 0 else -1
            if what_for >= 0 and self.places[what_for].type not in _NO_FINDINGS:
                self.found[what_for].add("hypothetical")
            active["hypothetical"] = Scope(WHEN_NEEDED, WHEN_NEEDED.patience + 1)
            return
        for scope in active.values():
            scope.covered += 1

    def _is_had(self, token: int, first: int) -> bool:
        """Whether somebody has a mention in so many words: "has a severe pain"."""
        for before in range(token - 1, max(first, token - _MOST_BETWEEN) - 1, -1):
            index = self.mention[before]
            if index >= 0 and self.places[index].type != "SEVERITY":
                return False
            if index < 0 and self.words[before] not in _ARTICLES:
                return self.words[before] in HAVING
        return False

    def _is_when_needed(self, index: int) -> bool:
        place = self.places[index]
        return place.type == "DOSAGE" and _WHEN_NEEDED.search(self.text, place.start, place.end) is not None

    def _affirm(self, matches: Sequence[Match], segments: Sequence[Segment]) -> None:
        """Take a negation from before away where the part of a list says itself that it is there."""
        negating = [match.first for match in matches if match.trigger.category == "negated"]
        for segment in segments[1:] if negating else ():
            at = bisect_left(negating, segment.first)
            if segment.alternative or (at < len(negating) and negating[at] < segment.end):
                continue
            self._affirm_told(segment)
            behind = segment.end
            while behind > segment.first and self.mention[behind - 1] < 0:
                behind -= 1
            if behind > segment.first and tuple(self.words[behind : segment.end]) in AFFIRMING:
                self.found[self.mention[behind - 1]].discard("negated")

    def _affirm_told(self, segment: Segment) -> None:
        """ "No fever, severe headache", "no fever, cough for 3 days": how bad or how long is told of what is there."""
        if self.words[segment.first] != ",":
            return
        inside = [index for index in dict.fromkeys(self.mention[segment.first : segment.end]) if index >= 0]
        kinds = [self.places[index].type for index in inside]
        if kinds and (kinds[0] == "SEVERITY" or "DURATION" in kinds[1:]):
            for index in inside:
                self.found[index].discard("negated")

    def _sweep_back(self, match: Match, stop: int, segments: Sequence[Segment]) -> None:
        """Give the trigger's category to the mentions to its left, as far as its own clause reaches."""
        home = bisect_right(segments, match.first, key=lambda segment: segment.first) - 1
        while home > 0 and segments[home].first > stop:
            here, left = segments[home], segments[home - 1]
            if match.trigger.orders_only and self.words[here.first] == ",":
                break
            relative = any(word in RELATIVE_PRONOUNS for word in self.words[here.first : here.first + 2])
            if (left.verb or left.trigger) and not relative:
                break
            home -= 1
        low = segments[home].first
        for token in range(max(low, stop), match.first):
            index = self.mention[token]
            if index >= 0 and self._is_of(match.trigger, self.places[index].type):
                self.found[index].add(match.trigger.category)

    def _is_of(self, trigger: Trigger, kind: str) -> bool:
        return not (trigger.findings_only and kind in _NO_FINDINGS) and not (
            trigger.orders_only and kind not in _ORDERED
        )


def _plain(word: str) -> str:
    if _YEAR.fullmatch(word):
        return "<year>"
    plain_word = word.lower().replace("'", "").replace("’", "") if len(word) > 1 else word.lower()
    return SLIPS.get(plain_word, plain_word)


def _strongest(found: set[Category]) -> Assertion:
    """One answer for a mention under several triggers. What nobody has is negated, even in the family."""
    if "family" in found and "negated" in found:
        return "negated"
    order: tuple[Literal["family", "hypothetical", "negated", "possible", "historical"], ...] = (
        "family",
        "hypothetical",
        "negated",
        "possible",
        "historical",
    )
    return next((kind for kind in order if kind in found), "present")
