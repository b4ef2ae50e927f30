"""Plain statements with a known assertion, and the ways in which people write the same in a note.

What is found in the plain statement must be found again, with the same type and assertion, however it is written: under
a heading, as an item of a list, on a line of its own, in capitals, in a scrap of HTML, beside statements of another
assertion. None of it is a line that the model was trained on.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from clinical.entities import Assertion

_SYMPTOMS: Final = (
    *("headache", "nausea", "vomiting", "diarrhea", "dizziness", "cough", "fever", "chest pain", "shortness of breath"),
    *("sore throat", "abdominal pain", "back pain", "joint pain", "leg swelling", "palpitations", "fatigue", "chills"),
    *("night sweats", "blurred vision", "numbness", "rash", "itching", "wheezing", "constipation", "heartburn"),
    *("weight loss", "hematuria", "dysuria", "tremor", "confusion", "ear pain", "neck stiffness", "muscle weakness"),
    *("nosebleeds", "hoarseness", "insomnia", "syncope", "tingling"),
)
_CONDITIONS: Final = (
    *("asthma", "pneumonia", "diabetes", "hypertension", "COPD", "heart failure", "stroke", "epilepsy", "migraine"),
    *("gout", "psoriasis", "hypothyroidism", "breast cancer", "atrial fibrillation", "anemia", "osteoporosis"),
    *("rheumatoid arthritis", "pancreatitis", "appendicitis", "bronchitis", "cellulitis", "celiac disease"),
)
_FRAMES: Final[Mapping[Assertion, tuple[str, ...]]] = {
    "present": ("has {}", "reports {}", "complains of {}", "{} since Monday", "ongoing {}", "presents with {}"),
    "negated": ("no {}", "denies {}", "without {}", "does not have {}", "no evidence of {}", "negative for {}"),
    "possible": ("possible {}", "suspected {}", "{} cannot be excluded", "likely {}", "concern for {}"),
    "historical": ("history of {}", "{} as a child", "had {} years ago", "prior {}", "{} has resolved"),
    "family": ("mother has {}", "family history of {}", "his father had {}", "{} runs in the family"),
    "hypothetical": ("return if {} develops", "at risk of {}", "call for {}", "watch for {}"),
}


@dataclass(frozen=True, slots=True)
class Plain:
    """A statement without a full stop, the finding in it, and what is said of the finding."""

    text: str
    finding: str
    assertion: Assertion


def plain_statements() -> list[Plain]:
    """One of each finding and assertion, 360 in all; the frames take turns."""
    return [
        Plain(frames[number % len(frames)].format(finding), finding, assertion)
        for number, finding in enumerate((*_SYMPTOMS, *_CONDITIONS))
        for assertion, frames in _FRAMES.items()
    ]


@dataclass(frozen=True, slots=True)
class Written:
    """A note that says what a plain statement says, and where in it the finding stands, in code points."""

    transformation: str
    text: str
    start: int
    end: int
    statement: Plain


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _typo(rng: random.Random, text: str, finding: str) -> str:
    """Two letters of a word beside the finding change places."""
    words = text.split(" ")
    beside = [at for at, word in enumerate(words) if len(word) > 4 and word not in finding.split(" ")]
    if beside:
        at = rng.choice(beside)
        letter = rng.randrange(1, len(words[at]) - 2)
        word = words[at]
        words[at] = word[:letter] + word[letter + 1] + word[letter] + word[letter + 2 :]
    return " ".join(words)


_HEADINGS: Final = ("HPI", "Assessment", "Subjective", "Neuro", "CC", "Impression", "Today")

Write = Callable[[random.Random, str, str, str], str]  # rng, statement, finding, another statement
_TRANSFORMATIONS: Final[Mapping[str, Write]] = {
    "full stop": lambda _rng, s, _f, _o: _capital(s) + ".",
    "heading": lambda rng, s, _f, _o: (
        rng.choice(("HPI", "Assessment", "Neuro", "CC", "Impression", "Today")) + f": {s}."
    ),
    "teller": lambda rng, s, _f, _o: rng.choice(("Wife states", "Per nursing", "Note", "Triage")) + f": {s}.",
    "heading on its line": lambda rng, s, _f, _o: rng.choice(_HEADINGS[:3]) + f":\n{_capital(s)}.",
    "bullet": lambda rng, s, _f, o: f"{(b := rng.choice(('-', '*', '•')))} {_capital(o)}\n{b} {_capital(s)}\n",
    "bullets in a line": lambda _rng, s, _f, o: f"Notes: - {o} - {s}",
    "numbers": lambda _rng, s, _f, o: f"1. {_capital(o)}\n2. {_capital(s)}\n",
    "lines": lambda _rng, s, _f, o: f"{o}\n{s}\n",
    "lines, first": lambda _rng, s, _f, o: f"{s}\n{o}\n",
    "sentences": lambda _rng, s, _f, o: f"{_capital(o)}. {_capital(s)}.",
    "sentences, first": lambda _rng, s, _f, o: f"{_capital(s)}. {_capital(o)}.",
    "semicolons": lambda _rng, s, _f, o: f"{o}; {s}",
    "capitals": lambda _rng, s, _f, _o: s.upper(),
    "title case": lambda _rng, s, _f, _o: s.title(),
    "lower case": lambda _rng, s, _f, _o: s.lower(),
    "html": lambda _rng, s, _f, o: f"<p>{_capital(o)}.</p><p>{_capital(s)}.</p>",
    "html list": lambda _rng, s, _f, o: f"<ul><li>{o}</li><li>{s}</li></ul>",
    "rtf": lambda _rng, s, _f, o: f"{{\\rtf1\\ansi\\fs24 {_capital(o)}.\\par {_capital(s)}.\\par}}",
    "typo beside": lambda rng, s, f, _o: _typo(rng, s, f) + ".",
    "section after": lambda _rng, s, _f, _o: f"PMH: gallstones. HPI: {s}.",
    "in the middle": lambda _rng, s, _f, o: f"Seen in clinic today. {_capital(s)}. {_capital(o)}. Will follow up.",
}


def written(statements: list[Plain], *, seed: int = 0) -> Iterator[Written]:
    """Every statement in every way, each beside one of another assertion."""
    rng = random.Random(seed)
    for statement in statements:
        others = [
            one
            for one in rng.sample(statements, 12)
            if one.assertion != statement.assertion and one.finding not in statement.text
            if statement.finding not in one.text
        ]
        for name, write in _TRANSFORMATIONS.items():
            other = next(
                one for one in others if one.finding not in statement.text and statement.finding not in one.text
            )
            text = write(rng, statement.text, statement.finding, other.text)
            start = text.lower().index(statement.finding.lower())
            yield Written(name, text, start, start + len(statement.finding), statement)


@dataclass(slots=True)
class Tally:
    """Of one transformation: notes whose finding was found plain, found again otherwise, and lost."""

    notes: int = 0
    otherwise: int = 0
    lost: int = 0


def look(result: Mapping[str, Any], start: int, end: int) -> tuple[str, str] | None:
    """Type and assertion of the mention at a place, None where there is none; an edge may be off by a word."""
    for kind, group in result["entities"].items():
        for one in group:
            if one["start"] < end and start < one["end"] and kind in ("SYMPTOM", "CONDITION"):
                return kind, one["assertion"]
    return None
