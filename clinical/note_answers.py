"""How forms and hurried notes say yes and no: boxes, signs, letters, rows of a form, answers to questions.

Before a finding ("(-) rash", "[x] cough") or behind it ("rash (-)", "fever nil", "Cough ..... no", "Any pain? No").
All places are code points of the text, and every search is bounded.
"""

import re
from typing import Final, Literal, cast

Answer = Literal["yes", "no", "maybe"]

_FEWEST_WEAK: Final = 2
_WEAK: Final = frozenset({"minus", "apart", "weak_no", "weak_yes"})
_YES: Final = frozenset({"yes", "said_yes", "plus", "plus_apart", "weak_yes"})

_SPACE: Final = re.compile(r"\s*")

BOX: Final = re.compile(r"\[[ \t]*([xX✓✔*])?[ \t]*\]|([☑☒✓✔■])|[☐□✗✘]|\(([xX ])\)(?=[ \t]*[A-Za-z])")
YES_NO_BOXES: Final = re.compile(r"[ \t:]*(yes|no|y|n)\b[ \t,/|]*", re.IGNORECASE)
SIGN: Final = re.compile(r"(?:(?<=[\s,;:(])|^)(?:\(([+-])\)|([+−-])(?=[ \t]?[A-Za-z]))")
CLEAR_SIGN: Final = re.compile(r"\([+-]\)|(?<![\w+-])[+−-]ve\b", re.IGNORECASE)
# Behind the finding: "rash (-), itching (+)", "N+ V+ D-", "guarding -ve", "slough nil", "fever n", "jaundice ✗".
_STOP: Final = r"(?=[ \t]*(?:[,;.|/(]|[ \t]{2}|\s*$))"
_ANSWER_BEHIND: Final = re.compile(
    r"(?<=[\w)\]>])(?:"
    r"[ \t]*(?P<no>\(-\)|[−-]ve\b|\((?:no|nil|none|neg)\)|[✗✘❌](?=\s|$|[,;.|]))"
    r"|[ \t]*(?P<yes>\(\+\)|\+ve\b|\((?:yes|pos)\)|[✓✔](?=\s|$|[,;.|]))"
    rf"|(?<!were)(?<!was)(?<!are)(?<!\bis)(?<!been)(?<!not)(?<!be)[ \t]+(?:"
    rf"(?P<said_no>nil|none|absent|neg|denies|denied|not[ ]present|not[ ]seen){_STOP}"
    rf"|(?P<said_yes>yes|present|pos){_STOP}|(?P<weak_no>no|n|x|0){_STOP}|(?P<weak_yes>y){_STOP})"
    rf"|(?P<plus>\+{{1,3}})(?=[ \t,;.|/(]|\s*$)|[ \t](?P<plus_apart>\+{{1,3}}){_STOP}"
    rf"|(?P<minus>[−-]{{1,2}})(?=[ \t,;.|/(]|\s*$)|[ \t](?P<apart>[−-]{{1,2}}){_STOP})",
    re.IGNORECASE,
)
# Two lines or pieces at least that end with nothing but N or Y: a form.
SINGLE_LETTERS: Final = re.compile(
    r"[\w)][ \t]+[NYX][ \t]*[,;.\n|][^\n]{0,80}(?:\n[^\n]{0,80})?[\w)][ \t]+[NYX][ \t]*(?:[,;.\n|]|$)"
)
_BETWEEN_PIECES: Final = re.compile(r"[,;:|\n](?=\s|$)|[.?](?=\s)|[ ]{2}|\t")
_LONGEST_PIECE: Final = 60
_LETTERS_NEXT: Final = re.compile(r"[ \t]*[A-Za-z]")
# A row of a table or of a form: "Fever ..... no", "Cough | yes", "Rash - denied".
# A name ends with a letter, so that a run of blanks behind it is gone through once.
ROW: Final = re.compile(
    r"[ \t|;,?]*+([A-Za-z](?:[^\n:|.?!;,]{0,39}?[^\s:|.?!;,])?)"
    r"(?:[ \t?]*+(?:\.{2,}+|\|)|[ ?]*+\t|[ \t?]*+[-–—](?<=[ \t].)[ \t]|[?]?[ ]{2,}+)[ \t.|]*+(?=\S)"
)

IS_BEHIND: Final = re.compile(r"(?<=[\w)][ \t])[✗✘❌✓✔](?=[ \t]*(?:[,;.|(]|\s*$)|[ \t])")
CELL: Final = re.compile(r"(?<=\s)\|(?=\s)")
WORD_BOXES: Final = re.compile(
    r"(yes|no|y|n)\b[ \t]?\[[ \t]*([xX✓]?)[ \t]*\][ \t,/|]*(yes|no|y|n)\b[ \t]?\[[ \t]*([xX✓]?)[ \t]*\]", re.IGNORECASE
)
_END: Final = (
    r"(?=[ \t]*(?:[.,;|!)]|$|\n|[ \t]{2}|[ \t][-–—(]|[A-Za-z][A-Za-z /]{0,30}:"
    r"|[ ](?:over|since|today|yet|now|this|currently|at present|so far|overnight)\b))"
)
SAID: Final = re.compile(
    r"[ \t]*(?:"
    r"(?P<no>Y[ ]?/[ ]?\(N\)|[✗✘❌]|0(?![\d./])|(?:none|nil|no|n|nope|neither|denies|denied|negative|neg|absent|never|"
    r"not present|not at all|nothing|none of (?:these|the above|them)|not wanted|not keen|declined|refused|"
    r"0 (?:episodes?|times|x))\b|x ?0(?![\d./])|"
    r"\(-\)|[-−–—∅](?![A-Za-z\d]))"
    r"|(?P<yes>\(Y\)[ ]?/[ ]?N\b|[✓✔]|(?:yes|y|yeah|yep|positive|pos|present|"
    r"endorses|endorsed|reported|admits)\b|\(\+\)|\+{1,3}(?![A-Za-z\d]))"
    r"|(?P<maybe>(?:maybe|possible|possibly|unsure|unclear|unknown|not sure|equivocal)\b|\?))" + _END,
    re.IGNORECASE,
)
ANSWER: Final = re.compile(
    r"[ \t]*\n?[ \t]*(?:(?:a|ans|answer|pt|patient|reply|response)[ \t]*[:.)-][ \t]*"
    r"|(?-i:A)[ \t]+(?-i:(?=[A-Z]))|[a-z][a-z. ]{0,19}:[ \t]*"
    r"|[-–>]{1,3}[ \t]*)?(?:"
    r"(?P<no>(?:no|nope|nah|none|never|not really|not at all|denies|denied|negative|neg|n|nothing|absent|"
    r"i do ?n[o']?t|he does ?n[o']?t|she does ?n[o']?t|not that i know of)\b)"
    r"|(?P<yes>(?:yes|yeah|yep|yup|y|sure|sometimes|often|occasionally|a little|a bit|positive|endorses|i do|"
    r"present)\b)"
    r"|(?P<maybe>(?:maybe|possibly|perhaps|not sure|unsure|i do ?n[o']?t know|i think so|could be)\b)"
    r")(?=[ \t]*(?:[.,;!\n]|$|[-–—])|[ ](?:ma['’]?am|sir|doc|doctor|thanks|thank)\b)",
    re.IGNORECASE,
)


def answer_of(found: re.Match[str]) -> Answer:
    return cast(Answer, found.lastgroup)


def skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found is not None else at


def signs_stand_behind(line: str) -> bool:
    """Whether signs that are surely some follow their findings: after the last one nothing is named."""
    ends = [found.end() for found in CLEAR_SIGN.finditer(line)]
    return bool(ends) and _LETTERS_NEXT.match(line, ends[-1]) is None


def answers_behind(text: str, start: int, end: int, *, weak_too: bool) -> list[tuple[int, int, Answer]]:
    """Findings with their answer behind them: where each begins, where its answer ends, and what that is.

    What is a word of its own as well (no, n, x, a dash) counts where there are several, or `weak_too`.
    """
    found = list(_ANSWER_BEHIND.finditer(text, start, end))
    weak = sum(match.lastgroup in _WEAK for match in found)
    certain = weak and any(match["plus"] or match["plus_apart"] for match in found)
    if weak < _FEWEST_WEAK and not certain and not weak_too:
        found = [match for match in found if match.lastgroup not in _WEAK]
    pieces: list[tuple[int, int, Answer]] = []
    at = start
    for match in found:
        cuts = [piece.end() for piece in _BETWEEN_PIECES.finditer(text, at, match.start())]
        first = skip(text, cuts[-1] if cuts else at)
        if first < match.start() and match.start() - first <= _LONGEST_PIECE:
            pieces.append((first, match.end(), "yes" if match.lastgroup in _YES else "no"))
        at = match.end()
    return pieces


def signs_before(text: str, start: int, end: int) -> list[tuple[int, Answer]]:
    """Plus and minus before findings: in brackets always; bare only where both are there, else they are bullets."""
    line = text[start:end]
    if signs_stand_behind(line):
        return []
    found = [(match.start(), match.group(1) or match.group(2), bool(match.group(1))) for match in SIGN.finditer(line)]
    if not found:
        return []
    bare = {sign for _, sign, bracketed in found if not bracketed}
    both = "+" in bare and len(bare) > 1
    return [
        (start + at, "yes" if sign == "+" else "no")
        for at, sign, bracketed in found
        if bracketed or both or sign == "+"
    ]


def yes_no_boxes(text: str, start: int, end: int) -> tuple[Answer | None, int] | None:
    """What boxes for yes and no say that begin here, and where they end; None where there are none."""
    at = skip(text, start)
    ticked: Answer | None = None
    seen = 0
    while (box := BOX.match(text, at, end)) is not None:
        word = YES_NO_BOXES.match(text, box.end(), end)
        if word is None:
            break
        seen += 1
        if any(group and group.strip() for group in box.groups()):
            ticked = "yes" if word.group(1).lower().startswith("y") else "no"
        at = word.end()
    return (ticked, at) if seen else None
