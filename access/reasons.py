"""Whether a reason says something: a person will read it, and dots or signs that nobody sees are none."""

import unicodedata
from typing import Final

SHORTEST_REASON: Final = 10
_TURNING: Final = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
_INVISIBLE: Final = frozenset("\u115f\u1160")  # Hangul fillers are letters, and so is what NFKC makes of their like


def says_something(text: str, *, letters: int = 3) -> bool:
    """At least so many letters or digits that can be seen, and half as many different letters among them."""
    spoken = [sign for sign in unicodedata.normalize("NFKC", text) if sign.isalnum() and sign not in _INVISIBLE]
    different = {sign.casefold() for sign in spoken if sign.isalpha()}
    return len(spoken) >= letters and len(different) * 2 >= letters


def explains(text: str) -> bool:
    """Whether it says enough for somebody who reviews it: ten characters, eight of them letters or digits.

    Signs that steer a terminal or turn what is read round have no place in it.
    """
    if any(unicodedata.category(sign) == "Cc" or unicodedata.bidirectional(sign) in _TURNING for sign in text):
        return False
    return len(unicodedata.normalize("NFKC", text).strip()) >= SHORTEST_REASON and says_something(text, letters=8)
