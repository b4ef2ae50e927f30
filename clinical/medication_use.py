"""What a person does with a drug that a note names: takes it, stopped it, holds it back, refused it, cannot bear it.

A drug on a list of allergies is the opposite of one that is taken. Looked at is one statement's text before and behind
the mention, a bounded stretch of it, so that time grows with the number of mentions and with nothing else.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Protocol, cast

from clinical.assertion import Place, rulings
from clinical.entities import FINDINGS, Assertion, Ruling, Use
from clinical.note_structure import Statement

_BEFORE_CHARACTERS: Final = 120
_BEHIND_CHARACTERS: Final = 48
_BEFORE: Final = re.compile(
    r"\b(?:(?P<allergy>(?:allerg(?:ic|y|ies)|anaphyla(?:xis|ctic)|intoleran(?:t|ce)|"
    r"(?:is|am|are|very|being)[ ]sensitive|(?:hyper)?sensitivity|"
    r"reaction|reacts?|reacted)[ ](?:to|of|with))"
    r"|(?P<held>(?:hold(?:ing)?|held|withh(?:old|olding|eld)|paus(?:e|ed|ing)|on[ ]hold)(?![ ]*(?:,|and\b|;))"
    r"(?:[ ]taking)?)"
    r"|(?P<refused>(?:refus(?:e|es|ed|ing)|declin(?:e|es|ed|ing)|(?:won['’]?t|will[ ]not|would[ ]not|wouldn['’]?t)|"
    r"does(?:n['’]?t|[ ]not)[ ]want)(?:[ ](?:to[ ])?(?:take|start|continue))?)"
    r"|(?P<stopped>(?:stop(?:ped|s|ping)?|discontinu(?:e|ed|es|ing)|d/c(?:['’]?d)?|dc['’]?d|quit|ceased?)"
    r"(?![ ]*(?:,|w/|(?:with|working|after|when|because|at|by|per|home|to)\b))(?:[ ]taking)?"
    r"|(?:came|come|coming|taken|took[ ]\w+|weaned|tapered|been|is|now)[ ]off(?:[ ]of)?|ran[ ]out[ ]of|"
    r"no[ ]longer[ ](?:on|takes?|taking|uses?|using)|"
    r"(?:finished|completed)(?:[ ](?:a|her|his|the|my))?(?:[ ]course[ ]of)?|used[ ]to[ ](?:take|be[ ]on|use)|"
    r"previously[ ](?:on|took|taking))"
    r"|(?P<taken>start(?:ed|s|ing)?|begin|began|begun|initiat(?:e|ed|ing)|cont|continu(?:e|es|ed|ing)|"
    r"accept(?:s|ed)|agree[sd]?[ ]to|tolerates|"
    r"(?:treated|managed)[ ]with|(?:put|placed|back)[ ]on|received|add(?:ed|ing)?|now|"
    r"switch(?:ed|ing)?[ ]to|chang(?:ed|ing)?[ ]to|replac(?:ed|ing)?[ ]with|restart(?:ed|ing)?|"
    r"resum(?:e|ed|ing)|tak(?:es|ing|en)|now[ ]on|but|however|instead|given|giv(?:e|ing)|prescribed))\b",
    re.IGNORECASE,
)
_BEHIND: Final = re.compile(
    r"[ ]*(?:[-–:(,][ ]*)?"
    r"(?:(?:was|were|is|are|has|have|had|been|being|now|currently|then|recently|both|all)[ ]+){0,3}(?:"
    r"(?P<allergy>allerg(?:y|ies|ic)|intoleran(?:ce|t)|anaphylaxis)"
    r"|(?P<taken>continued|continues|resumed|restarted|running)"
    r"|(?P<held>held|on[ ]hold|withheld|paused)"
    r"|(?P<refused>refused|declined)"
    r"|(?P<stopped>stopped|discontinued|d/c['’]?d|dc['’]?d|ceased|finished|completed|weaned|tailed|quit|"
    r"no[ ]longer[ ]taken))\b",
    re.IGNORECASE,
)
_OPENS_REACTION: Final = re.compile(r"[ ]*(?:\(|[-–—:>]{1,2}[ ])[^()\n,;.]{0,20}")
_GOES_ON: Final = re.compile(r"[ ]*(?:,|and|&|/)[ ]*(?:and[ ])?")
_LONGEST_BETWEEN: Final = 40
_ASKED_ALLERGY: Final = re.compile(
    r"\ballerg(?:y|ies|ic)\b[^.?\n]{0,20}\?[ \n]*(?:(?:a|pt)[:. ]+)?(?:yes[,:. ]+)?(?:[a-z]+(?:,| and)[ ])?(?:to[ ])?$",
    re.IGNORECASE,
)
_TAKEN_ANYWAY: Final = re.compile(r"\b(?:on|takes?|taking|tolerates?|given)[ ]$", re.IGNORECASE)
# "Switched from sertraline to venlafaxine", "replaced glipizide with insulin".
_EXCHANGE: Final = re.compile(
    r"\b(?:switch(?:ed|ing)?|chang(?:ed|ing)|transition(?:ed|ing)?|replac(?:ed|ing)|swapp(?:ed|ing)|exchang(?:ed|ing))"
    r"(?:[ ]from)?(?=[ ])(?![ ](?:to|with)\b)",
    re.IGNORECASE,
)
_INSTEAD: Final = re.compile(r"\b(?:to|with|for|by)[ ](?:[a-z]+[ ])?$", re.IGNORECASE)
_DOSE: Final = re.compile(r"[ ]+(?:\d|one\b|two\b|half\b)")
_ENDED_BY_ORDER: Final = frozenset({"stopped", "held", "refused"})
_LISTED_ALLERGY: Final = re.compile(
    r"(?:^|[:;.\n])\W*(?:known[ ]|drug[ ]|medication[ ])?allerg(?:y|ies|ic)(?:[ ]to)?[ :,\"“'-]*$", re.IGNORECASE
)
_ASIDE: Final = re.compile(r"\([^()]{0,60}\)")
_SENTENCE: Final = re.compile(r"[.!?;](?=\s)")
MEANING: Final[dict[Use, Assertion]] = {
    "allergy": "negated",
    "refused": "negated",
    "stopped": "historical",
    "held": "historical",
}


class Drug(Protocol):
    """A mention as this module sees it."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


def rule_on(text: str, parts: Sequence[Statement], places: Sequence[Place]) -> tuple[list[Use | None], list[Ruling]]:
    """What the rules say of a text's mentions, and of each drug what is done with it; None for the others."""
    ruled = rulings(text, places, parts)
    uses: list[Use | None] = [None] * len(places)
    for at, (place, ruling) in enumerate(zip(places, ruled, strict=True)):
        if place.type == "MEDICATION":
            uses[at], assertion = use_of(text, parts, place, ruling.assertion)
            if assertion == "present" and _continues(text, place):
                ruled[at] = Ruling(assertion, "words")
            if assertion != ruling.assertion:
                listed = _part_of(parts, place).section == "allergies"
                ruled[at] = Ruling(assertion, "structure" if listed else "words")
    _rule_on_reactions(text, places, uses, ruled)
    return uses, ruled


def _rule_on_reactions(text: str, places: Sequence[Place], uses: Sequence[Use | None], ruled: list[Ruling]) -> None:
    """What stands in brackets or behind a dash after an allergy is what the drug did then."""
    order = sorted(range(len(places)), key=lambda at: places[at].start)
    reacts = False
    for before, at in pairwise(order):
        between = text[places[before].end : places[at].start][:_LONGEST_BETWEEN]
        begins = uses[before] == "allergy" and _OPENS_REACTION.fullmatch(between) is not None
        reacts = places[at].type in FINDINGS and (begins or (reacts and _GOES_ON.fullmatch(between) is not None))
        if reacts:
            ruled[at] = Ruling("historical", "structure")


def _continues(text: str, drug: Drug) -> bool:
    """Whether the words behind a drug say that it is taken."""
    behind = _BEHIND.match(text, drug.end, drug.end + _BEHIND_CHARACTERS)
    return behind is not None and behind.lastgroup == "taken"


def use_under(assertion: Assertion) -> Use:
    """What is done with a drug of which nothing more is known than its assertion."""
    if assertion == "historical":
        return "stopped"
    return "taken" if assertion == "present" else "unknown"


def use_of(text: str, parts: Sequence[Statement], drug: Drug, assertion: Assertion) -> tuple[Use, Assertion]:
    """What is done with one drug, and its assertion in that light; `parts` are the statements of the text."""
    part = _part_of(parts, drug)
    if assertion in ("family", "hypothetical", "possible"):
        return "unknown", assertion
    asked = _ASKED_ALLERGY.search(text, max(0, drug.start - _BEFORE_CHARACTERS), drug.start) is not None
    listed = part.section == "allergies" and _TAKEN_ANYWAY.search(text, part.start, drug.start) is None
    use: Use | None = "allergy" if asked or listed else None
    if use is None:
        behind = _BEHIND.match(text, drug.end, min(part.end, drug.end + _BEHIND_CHARACTERS))
        use = _kind(behind) or _said_before(
            text[max(part.start, drug.start - _BEFORE_CHARACTERS) : drug.start],
            is_dosed=_DOSE.match(text, drug.end, part.end) is not None,
        )
    if use is not None and use != "taken":
        return use, MEANING[use]
    return use_under(assertion), assertion


def _part_of(parts: Sequence[Statement], drug: Drug) -> Statement:
    return parts[bisect_right(parts, drug.start, key=lambda one: one.start) - 1]


def _said_before(stretch: str, *, is_dosed: bool) -> Use | None:
    """What the last words say that decide it, in the sentence that the drug stands in."""
    if _LISTED_ALLERGY.search(stretch):
        return "allergy"
    exchange = None
    for exchange in _EXCHANGE.finditer(stretch):  # noqa: B007
        pass
    if exchange is not None and "." not in stretch[exchange.end() :]:
        return "taken" if _INSTEAD.search(stretch, exchange.end()) else "stopped"
    stretch = _ASIDE.sub(lambda aside: " " * len(aside.group()), stretch)
    begins = max((ending.end() for ending in _SENTENCE.finditer(stretch)), default=0)
    last = None
    for found in _BEFORE.finditer(stretch, begins):
        last = found
    if last is not None and last.lastgroup in _ENDED_BY_ORDER and is_dosed and "," in stretch[last.end() :]:
        return None  # "stop the infusion, celecoxib 200 mg": an order of its own
    return _kind(last)


def _kind(found: re.Match[str] | None) -> Use | None:
    return None if found is None else cast(Use, found.lastgroup)
