"""Codes of vocabularies for what was found: a mention's words, put into a form in which word order and number do not
count, looked up in tables that were made at training time.

It is a look-up of names and synonyms, not a judgement: a mention that no vocabulary names gets no code, and one name
gets the same code in every context.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

SYSTEMS: Final[Mapping[str, tuple[str, ...]]] = {
    "SYMPTOM": ("HPO", "MeSH-tree"),
    "CONDITION": ("MeSH-tree", "ICD-10-CM", "HPO"),
    "MEDICATION": ("DrugBank",),
}
"""The vocabularies asked for each type, in the order in which their codes are shown."""

_WORDS: Final = re.compile(r"[^\W_]+")
_SMALL_WORDS: Final = (
    "a an the of in on at to with and or due my his her their both left right bilateral unspecified nos"
)
_UNHEARD: Final = frozenset(_SMALL_WORDS.split())


def term_key(term: str) -> str:
    """The words of a term that matter, each in the singular, in alphabetical order: `Pain in lower back` and
    `lower-back pains` share one."""
    words = {_singular(word) for word in _WORDS.findall(term.casefold()) if word not in _UNHEARD}
    return " ".join(sorted(words))


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] not in "sui" else word


@dataclass(frozen=True, slots=True)
class Code:
    """One entry of a vocabulary."""

    system: str
    code: str
    name: str


class CodeBook:
    """The tables: for each vocabulary from a term's key to (code, name)."""

    def __init__(self, systems: Mapping[str, Mapping[str, tuple[str, str]]]) -> None:
        self._systems = systems

    @classmethod
    def of(cls, stored: Any) -> Self:
        """From what `codes.json` holds. Raises ValueError when that has another form."""
        try:
            systems = {
                str(system): {key: (str(code), str(name)) for key, (code, name) in terms.items()}
                for system, terms in stored["systems"].items()
            }
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError("not a table of codes") from error
        return cls(systems)

    def find(self, kind: str, text: str) -> list[Code]:
        """The codes of a mention of type `kind`; none where no vocabulary names it."""
        key = term_key(text)
        return [
            Code(system, *found)
            for system in SYSTEMS.get(kind, ())
            if key and (found := self._systems.get(system, {}).get(key)) is not None
        ]
