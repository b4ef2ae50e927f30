"""What is said beside a change score: general-wellness wording, and nothing that sounds like more.

This product watches for change and suggests talking to a care team. It names no condition, advises no remedy and says
nothing about how soon. `claims_in` finds words that would; every text that leaves this project is tested with it.
"""

import re
from typing import Final, Literal

Band = Literal["steady", "some change", "marked change"]

BANDS: Final[tuple[Band, ...]] = ("steady", "some change", "marked change")
_GENERAL: Final = (
    "This is wellness monitoring: it looks for change from your own baseline, and it can be wrong either way. Consider "
    "talking to your care team about anything that concerns you."
)
EXPLANATION: Final = (
    "These values say how the model came to its answer, not what caused anything. Each is what some readings or a word "
    "add to the answer."
)
NOT_ENGLISH: Final = (
    "This text does not seem to be English. The model reads English only: what it found is not reliable."
)
_SENTENCES: Final[dict[Band, str]] = {
    "steady": "Your readings of the last seven days look steady.",
    "some change": "Your readings of the last seven days show some change.",
    "marked change": "Your readings of the last seven days show a marked change.",
}
_CLAIMS: Final = re.compile(
    r"\b(diagnos\w*|treat(s|ed|ing|ment|ments)?|therap\w+|cure[sd]?|medical devices?|prescri\w+|urgen\w+|emergenc\w+"
    r"|immediate(ly)?|life[- ]threatening|prognos\w+|disease\w*|illness\w*|triag\w+|early warning\w*|at risk of"
    r"|clinical(ly)? (cut[- ]?offs?|thresholds?|validated|decisions?)|FDA[- ](cleared|approved)|life[- ]saving)\b",
    re.IGNORECASE,
)
_DENIAL: Final = re.compile(r"\b(not|never|no|nor|nothing|without|none)\b", re.IGNORECASE)
_SENTENCE: Final = re.compile(r"(?<=[.!?:;|])\s+|\n\s*\n")


def band_of(score: float, some_change_from: float, marked_change_from: float) -> Band:
    """The band of a score (0-1), given the scores from which the two upper bands begin."""
    if score >= marked_change_from:
        return "marked change"
    return "some change" if score >= some_change_from else "steady"


def notice(band: Band) -> str:
    """What is shown with a score: one sentence on the week, and what this is and is not."""
    return f"{_SENTENCES[band]} {_GENERAL}"


def claims_in(text: str, *, denials: bool = False) -> list[str]:
    """Words in a text that a general-wellness product does not use, in lower case and in order.

    With `denials`, for documents, a sentence may say what this is not.
    """
    sentences = _SENTENCE.split(text) if denials else [text]
    return [
        match.group(0).lower()
        for sentence in sentences
        if not (denials and _DENIAL.search(sentence))
        for match in _CLAIMS.finditer(sentence)
    ]
