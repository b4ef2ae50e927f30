"""Whether a reason says something: a person will read it, and dots or signs that nobody sees are none."""

import unicodedata
from collections.abc import Sequence
from typing import Final

SHORTEST_REASON: Final = 4  # signs: fewer are not enough in any script, and fewer than these are not looked at
_LENGTH: Final = 10
_LETTERS: Final = 8
_SPACING: Final = frozenset("\n\t")
_TURNING: Final = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
_INVISIBLE: Final = frozenset("\u115f\u1160")  # Hangul fillers are letters, and so is what NFKC makes of their like


def says_something(text: str, *, letters: int = 3) -> bool:
    """At least so many letters or digits that can be seen, and half as many different letters among them.

    Signs count by how much of a word they are: an ideograph is three letters, a syllable two, one of Hangul as many as
    it is made of. An accent is part of its letter; a vowel sign after a letter of its own script counts as a letter,
    the first after each. A sign that stands for several, such as a ligature, counts once.
    """
    spoken = _spoken(text)
    different = {sign.casefold() for sign in spoken if not sign.isnumeric() or sign.isalpha()}
    # Two ideographs turn by turn are as little as two letters are, and three make a sentence.
    variety = sum(3 if _is_ideograph(sign) else 2 for sign in different)
    return sum(map(_weight, spoken)) >= letters and len(different) > 1 and variety >= letters


def explains(text: str) -> bool:
    """Whether it says enough for somebody who reviews it: ten characters, eight of them letters or digits.

    Both as `says_something` counts, so that four ideographs can be enough. Lines and tabs are spacing; other controls,
    and signs that turn what is read round, have no place in it.
    """
    for sign in text:
        if unicodedata.category(sign) == "Cc" and sign not in _SPACING:
            return False
        if unicodedata.bidirectional(sign) in _TURNING:
            return False
    more = sum(_weight(sign) - 1 for sign in _spoken(text))
    long_enough = len(unicodedata.normalize("NFKC", text).strip()) + more >= _LENGTH
    # One sign that Unicode takes apart into a whole phrase is one sign.
    return long_enough and len(_spoken(text)) >= SHORTEST_REASON and says_something(text, letters=_LETTERS)


def _spoken(text: str) -> Sequence[str]:
    """The signs that count: letters and digits, each in its plain form, and vowel signs."""
    found = []
    last = ""  # the letter that a vowel sign would follow; none once it has one
    for sign in unicodedata.normalize("NFC", text):
        category = unicodedata.category(sign)
        if category in ("Mn", "Mc"):
            if last and _is_vowel_sign(sign) and _script(sign) == _script(last):
                found.append(sign)
                last = ""
        elif category != "Cf":  # a joiner between the two changes nothing
            plain = unicodedata.normalize("NFKC", sign)[:1]
            last = plain if plain.isalnum() and plain not in _INVISIBLE else ""
            if last:
                found.append(plain)
    return found


def _is_vowel_sign(mark: str) -> bool:
    """What takes a place of its own beside a letter, as accents and selectors of a variant do not."""
    return unicodedata.combining(mark) == 0 and "VOWEL" in _name(mark) and "INHERENT" not in _name(mark)


def _weight(sign: str) -> int:
    name = _name(sign)
    if _is_ideograph(sign):
        return 3
    if name.startswith("HANGUL SYLLABLE"):
        return len(unicodedata.normalize("NFD", sign))
    return 2 if "SYLLAB" in name or name.startswith(("HIRAGANA LETTER", "KATAKANA LETTER")) else 1


def _is_ideograph(sign: str) -> bool:
    return "IDEOGRAPH-" in _name(sign)


def _script(sign: str) -> str:
    return _name(sign).partition(" ")[0]


def _name(sign: str) -> str:
    return unicodedata.name(sign, "")
