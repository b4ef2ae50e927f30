"""How far a trigger reaches: what keeps it in force, what ends it, and where a clause of its own begins."""

from dataclasses import dataclass
from typing import Final

from clinical.assertion_triggers import LIST_WORDS, OWN_SUBJECT, PATIENT, Category, Trigger
from clinical.entities import FINDINGS

_JOINED: Final = frozenset({"or", "nor"})


@dataclass(frozen=True, slots=True)
class Match:
    """A trigger at tokens [first, end)."""

    first: int
    end: int
    trigger: Trigger
    backward: bool


@dataclass(slots=True)
class Scope:
    """A trigger in force: what it has covered, and how many more words it waits for a first mention."""

    trigger: Trigger
    patience: int
    covered: int = 0
    findings: bool = False  # what it covered first is a finding

    def holds_over(self, kind: Category, word: str) -> bool:
        """Whether it is still in force after this word outside a mention."""
        if kind == "family":
            return word not in PATIENT if self.covered else word not in {"pt", "patient"}
        if not self.covered:
            self.patience -= 1
            return self.patience >= 0 and not (self.trigger.reach == "phrase" and word == ",")
        if word in OWN_SUBJECT:
            return False
        if self.trigger.reach == "clause":
            return True
        return word in LIST_WORDS and not (self.trigger.reach == "phrase" and word == ",")


Scopes = dict[Category, Scope]

# "No fever, chest x-ray today": what is said of findings does not go on to what is measured, given or done beside them.
_BESIDE_FINDINGS: Final[dict[Category, frozenset[str]]] = {
    "negated": frozenset({"TEST", "MEDICATION", "PROCEDURE"}),
    "historical": frozenset({"TEST", "MEDICATION"}),
    "possible": frozenset({"TEST", "MEDICATION"}),
}


def cover(active: Scopes, kind: str, before: str) -> None:
    """Count a mention of a type under what is in force; what does not reach it ends. `before` is the word before it."""
    for category in list(active):
        scope = active[category]
        if scope.covered and scope.findings and kind in _BESIDE_FINDINGS.get(category, ()) and before not in _JOINED:
            del active[category]
        elif not scope.covered and kind in FINDINGS:
            scope.findings = True


@dataclass(slots=True)
class Segment:
    """The tokens [first, end) between two commas or conjunctions, and what decides whether they are a clause of
    their own.
    """

    first: int
    end: int
    verb: bool = False
    alternative: bool = False  # holds "or" or "nor": part of a list even where a verb follows
    trigger: bool = False
    subject: bool = False  # something stands before its verb


def end_clause(active: Scopes, segment: Segment) -> None:
    for kind in list(active):
        if kind != "family" or segment.subject:
            del active[kind]


def apply(active: Scopes, trigger: Trigger, before: Match | None) -> None:
    """Let a trigger work; it doesn't end what the words right before it began ("not | complaining of")."""
    for kind in trigger.ends:
        if before is None or before.trigger.category != kind:
            active.pop(kind, None)
    if trigger.category != "none":
        active[trigger.category] = Scope(trigger, trigger.patience + 1)
