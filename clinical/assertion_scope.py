"""How far a trigger reaches: what keeps it in force, what ends it, and where a clause of its own begins."""

from dataclasses import dataclass

from clinical.assertion_triggers import LIST_WORDS, OWN_SUBJECT, PATIENT, Category, Trigger


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
