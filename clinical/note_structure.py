"""What a note is made of: sections, items, keys with their values, questions with their answers, boxes and signs.

A reader of sentences takes "Skin: no rash" for one sentence about skin, and three lines for one. This pass cuts any
text into statements before anything is judged: whoever reads one needs nothing of its neighbours. A heading on a line
of its own reaches to the next heading or blank line, one with something behind it to the end of its line. A line goes
on with the one before only where that one was left open: by a comma, a word that wants another, or by being full.

Pure; time grows with the text and with nothing else; places are code points of the original, and the statements cover
it once. Marked-up text keeps its places: tags and addresses of pages are blanks to whoever reads it by `plain`.
"""

import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, cast


def _words(table: str) -> frozenset[str]:
    return frozenset(table.split())


Section = Literal[
    "present illness",
    "past",
    "family",
    "social",
    "allergies",
    "medications",
    "review",
    "exam",
    "tests",
    "assessment",
    "plan",
    "instructions",
]
Answer = Literal["yes", "no", "maybe"]

_NAMES: Final[tuple[tuple[Section, str], ...]] = (
    (
        "present illness",
        "history of present illness | history of the present illness | history of presenting complaint | hpi | hopi"
        " | hpc | present illness | presenting complaint | chief complaint | chief complaints | cc | complaint"
        " | complaints | reason for visit | reason for consult | reason for admission | current | currently"
        " | current complaints | current symptoms | symptoms | interval history | subjective | s | today | now"
        " | hospital course | course | events | hx | background and presenting complaint",
    ),
    (
        "past",
        "past medical history | past medical hx | past history | past hx | past medical and surgical history | pmh"
        " | pmhx | pmhx and pshx | past surgical history | past surgical hx | psh | pshx | medical history"
        " | surgical history | history | previous history | previous illnesses | past illnesses | prior history"
        " | past conditions | obstetric history | childhood illnesses",
    ),
    ("family", "family history | family hx | family medical history | fh | fhx | fam hx | family"),
    ("social", "social history | social hx | sh | shx | social | habits | lifestyle"),
    (
        "allergies",
        "allergies | allergy | allergic | allergies and intolerances | drug allergies | all | allergic to | adrs",
    ),
    (
        "medications",
        "medications | medication | meds | current medications | current meds | home medications | home meds"
        " | medication list | drugs | drug history | dh | dhx | rx | discharge medications | medicines | treatment"
        " | outpatient medications | medications on admission | medications on discharge | prescriptions",
    ),
    (
        "review",
        "review of systems | review of symptoms | ros | systems review | system review | pertinent negatives"
        " | pertinent positives | negatives | positives | associated symptoms",
    ),
    (
        "exam",
        "exam | examination | physical exam | physical examination | on examination | o/e | pe | objective | o"
        " | vitals | vital signs | vs | findings | clinical findings",
    ),
    (
        "tests",
        "labs | laboratory | laboratory data | lab results | labs and imaging | imaging | results | investigations"
        " | studies | tests | data | diagnostics | radiology | micro | microbiology",
    ),
    (
        "assessment",
        "assessment | impression | imp | diagnosis | diagnoses | dx | a | a/p | assessment and plan"
        " | assessment/plan | problem list | problems | active problems | discharge diagnosis"
        " | discharge diagnoses | final diagnosis | principal diagnosis | admitting diagnosis | summary",
    ),
    (
        "plan",
        "plan | p | plans | recommendations | recommendation | recs | rec | orders | adv | planned procedure | for gp"
        " | due | action plan | follow up | follow-up"
        " | disposition | to do",
    ),
    (
        "instructions",
        "instructions | discharge instructions | patient instructions | return precautions | precautions"
        " | safety net | safety netting | advice | patient education | when to call | when to seek help | rtc"
        " | return to clinic | return to clinic if | when to call us | call us if | call if | return if | return"
        " | return for | come back if"
        " | warning signs | red flags | red flag advice | safety net advice | seek care if | discharge advice",
    ),
)
SECTIONS: Final[dict[str, Section]] = {name.strip(): section for section, names in _NAMES for name in names.split("|")}
# Headings that say of all behind them that it is not there, or may be.
_VERDICTS: Final[tuple[tuple[Answer, str], ...]] = (
    (
        "no",
        "denies | denied | negatives | neg | none | absent | no | pertinent negatives | negative for | neg for"
        " | denies any | ros negative for | negative ros | not present | patient denies | pt denies"
        " | no complaints of | relevant negatives",
    ),
    (
        "maybe",
        "ddx | dd | ddx includes | differential | differentials | differential diagnosis | differential diagnoses"
        " | possible diagnoses | r/o | rule out | query | considered | to consider",
    ),
)
_SAID_BY: Final[dict[str, Answer]] = {name.strip(): said for said, names in _VERDICTS for name in names.split("|")}
# Headings of a review of systems or of an examination: they go on with the section that they stand in.
_ORGANS: Final = _words("""
    skin neuro neurologic neurological cns gi gu cv cvs cardiac cardiovascular resp respiratory pulm pulmonary lungs
    chest heart heent head eyes ears nose throat ent neck msk musculoskeletal extremities ext abd abdomen abdominal
    psych psychiatric constitutional general gen endo endocrine heme hematologic lymph derm genitourinary
    gastrointestinal back limbs mouth breast vascular rectal pelvic mental
""")

_LONGEST_KEY: Final = 60
_MOST_KEY_WORDS: Final = 10
_FULL_LINE: Final = 60
_FULL_WITH_NAME: Final = 68
_LONG_LINE: Final = 40
_FEWEST_WEAK: Final = 2
_WEAK: Final = frozenset({"minus", "apart", "weak_no", "weak_yes"})
_YES: Final = frozenset({"yes", "said_yes", "plus", "plus_apart", "weak_yes"})

_ADDRESS: Final = re.compile(r"(?:https?://|www\.)\S{1,2000}")
_BLOCKS: Final = _words("""
    br p li div tr td th ul ol table h1 h2 h3 h4 h5 h6 hr
""")
_TAG: Final = re.compile(
    r"</?([A-Za-z][A-Za-z0-9]{0,20})(?:\s[^<>\n]{0,300})?/?>|<!--[^<>]{0,300}-->|&(?:[a-z]{2,8}|#\d{1,6});"
)
_RTF: Final = re.compile(r"\\(par|line|pard|tab)?(?:[a-z]{1,32})?-?\d{0,10}(?: |(?=[\\{}\s]))|\\'[0-9a-fA-F]{2}|[{}]")
_RTF_SIGN: Final = re.compile(r"\\(?:rtf\d|par\b|b0?\b|fs\d)")

_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")
_BULLET: Final = re.compile(r"[ \t]*(?:[-*•·‣▪◦–—>]|\d{1,2}[.)]|[a-h][.)])[ \t]+(?=\S)")
_INNER_BULLET: Final = re.compile(r"(?<=[\s])[-*•·‣▪◦–—](?=[ \t]+\S)")
_INNER_NUMBER: Final = re.compile(r"(?<=[\s])\d{1,2}[.)](?=[ \t]+\S)")
_BOX: Final = re.compile(r"\[[ \t]*([xX✓✔*])?[ \t]*\]|([☑☒✓✔■])|[☐□✗✘]|\(([xX ])\)(?=[ \t]*[A-Za-z])")
_YES_NO_BOXES: Final = re.compile(r"[ \t:]*(yes|no|y|n)\b[ \t,/|]*", re.IGNORECASE)
# A line that ends with an answer is done, and one that begins so says something of its own.
_ANSWERED: Final = re.compile(
    rf"(?:{_BOX.pattern})[ \t]*(?:yes|no|y|n)[ \t]*$|(?:yes|no|y|n)[ \t]?\[[xX ]?\]$|[\s\w)][+−-]{{1,3}}$|[✗✘❌✓✔]$"
    r"|\b(?:nil|none|yes|neg|negative|pos|positive|denied|[+-]ve)$|(?:[:|?.\t]|[ ][-–—]|[ ]{2})[ \t]*(?:no|n|y|denies)$"
    r"|^.{0,32}[ ]no$",
    re.IGNORECASE,
)
_BEGINS_ANEW: Final = re.compile(r"(?:[hcrs]/o|k/c/o|s/p|o/e|c/w|hx|pmh|no|nil|denies)\b", re.IGNORECASE)
_OPEN_END: Final = frozenset(",(/&")
_WANTS_MORE: Final = _words("""
    and or nor with of the a an to for in on at by from no denies denied without any his her my their as is was were has
    had have not than but that which who because since while plus vs including
""")
_GOES_ON: Final = _words("and or nor but because which that who than although")
_SIGN: Final = re.compile(r"(?:(?<=[\s,;:(])|^)(?:\(([+-])\)|([+−-])(?=[ \t]?[A-Za-z]))")
_CLEAR_SIGN: Final = re.compile(r"\([+-]\)|(?<![\w+-])[+−-]ve\b", re.IGNORECASE)
# Behind the finding: "rash (-), itching (+)", "N+ V+ D-", "guarding -ve", "slough nil", "fever n", "jaundice ✗".
_STOP: Final = r"(?=[ \t]*(?:[,;.|/(]|[ \t]{2}|\s*$))"
_ANSWER_BEHIND: Final = re.compile(
    r"(?<=[\w)\]>])(?:"
    r"[ \t]*(?P<no>\(-\)|[−-]ve\b|\((?:no|nil|none|n|neg)\)|[✗✘❌](?=\s|$|[,;.|]))"
    r"|[ \t]*(?P<yes>\(\+\)|\+ve\b|\((?:yes|y|pos)\)|[✓✔](?=\s|$|[,;.|]))"
    rf"|(?<!were)(?<!was)(?<!are)(?<!\bis)(?<!been)(?<!not)(?<!be)[ \t]+(?:"
    rf"(?P<said_no>nil|none|absent|neg|denies|denied|not[ ]present|not[ ]seen){_STOP}"
    rf"|(?P<said_yes>yes|present|pos){_STOP}|(?P<weak_no>no|n|x|0){_STOP}|(?P<weak_yes>y){_STOP})"
    rf"|(?P<plus>\+{{1,3}})(?=[ \t,;.|/(]|\s*$)|[ \t](?P<plus_apart>\+{{1,3}}){_STOP}"
    rf"|(?P<minus>[−-]{{1,2}})(?=[ \t,;.|/(]|\s*$)|[ \t](?P<apart>[−-]{{1,2}}){_STOP})",
    re.IGNORECASE,
)
# Two lines or pieces at least that end with nothing but N or Y: a form.
_SINGLE_LETTERS: Final = re.compile(
    r"[\w)][ \t]+[NYX][ \t]*[,;.\n|][^\n]{0,80}(?:\n[^\n]{0,80})?[\w)][ \t]+[NYX][ \t]*(?:[,;.\n|]|$)"
)
_BETWEEN_PIECES: Final = re.compile(r"[,;:|\n](?=\s|$)|[.?](?=\s)|[ ]{2}|\t")
_LONGEST_PIECE: Final = 60
_LETTERS_NEXT: Final = re.compile(r"[ \t]*[A-Za-z]")
# A row of a table or of a form: "Fever ..... no", "Cough | yes", "Rash - denied".
_ROW: Final = re.compile(
    r"[ \t|;,?]*([A-Za-z][^\n:|.?!;,]{1,40}?)[ \t?]*(?:\.{2,}|\||\t|[ \t][-–—][ \t]|[ ]{2,})[ \t.|]*(?=\S)"
)

_IS_BEHIND: Final = re.compile(r"(?<=[\w)][ \t])[✗✘❌✓✔](?=[ \t]*(?:[,;.|(]|\s*$)|[ \t])")
_CELL: Final = re.compile(r"(?<=\s)\|(?=\s)")
_WORD_BOXES: Final = re.compile(
    r"(yes|no|y|n)\b[ \t]?\[[ \t]*([xX✓]?)[ \t]*\][ \t,/|]*(yes|no|y|n)\b[ \t]?\[[ \t]*([xX✓]?)[ \t]*\]", re.IGNORECASE
)
_SIGNED_LINE: Final = re.compile(r"^[ \t]*([+-])[ \t]?[A-Za-z]", re.MULTILINE)
_SIGN_OF_LINE: Final = re.compile(r"[ \t]*([+−-])[ \t]?(?=[A-Za-z])(?!ve\b)")
_AROUND_NAME: Final = " \t\r\n*=_#[]()-–—.:"
# Where what a sign before a finding says ends: at the sentence's end, and where words say something themselves.
_SAYS_ITSELF: Final = re.compile(
    r"[.;](?=\s)|,[ \t]*(?:and[ ]|but[ ])?"
    r"(?=(?:no|nil|denie[sd]|denying|negative|neg|without|not|never|has|had|is)\b)|\b(?=but\b)",
    re.IGNORECASE,
)
_END: Final = (
    r"(?=[ \t]*(?:[.,;|!)]|$|\n|[ \t]{2}|[ \t][-–—(]|[A-Za-z][A-Za-z /]{0,30}:"
    r"|[ ](?:over|since|today|yet|now|this|currently|at present|so far|overnight)\b))"
)
_SAID: Final = re.compile(
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
_ANSWER: Final = re.compile(
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
_SENTENCE_END: Final = re.compile(r"[.!?;](?=\s|$)")
_SPACE: Final = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Statement:
    """The stretch [start, end) of a text, in code points.

    `label` is where the words before its colon end, or `start` where there are none. `said` is what a box, a sign or an
    answer says of everything in it; `asked` tells that the words themselves are a question.
    """

    start: int
    end: int
    section: Section | None = None
    label: int = 0
    said: Answer | None = None
    asked: bool = False


def plain(text: str) -> str:
    """The text with every sign of markup and every address of a page as blanks, so that all places stay as they are."""
    if "://" in text or "www." in text:
        text = _ADDRESS.sub(lambda found: " " * len(found.group()), text)
    if ("<" in text and ">" in text) or "&" in text:
        text = _TAG.sub(_blank_tag, text)
    if "\\" in text and _RTF_SIGN.search(text):
        text = _RTF.sub(_blank_word, text)
    return text


def _blank_tag(found: re.Match[str]) -> str:
    breaks = (found.group(1) or "").lower() in _BLOCKS
    return ("\n" if breaks else " ") + " " * (len(found.group()) - 1)


def _blank_word(found: re.Match[str]) -> str:
    breaks = found.group(1) in ("par", "line") and not found.group().startswith("\\pard")
    return ("\n" if breaks else " ") + " " * (len(found.group()) - 1)


def statements(text: str) -> list[Statement]:
    """What the text says, in order. `text` is as `plain` gives it."""
    return list(_Cutter(text).statements())


class _Cutter:
    """Goes through one text from its start to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        letter = next((sign for sign in text[:_FULL_LINE] if sign.isalpha()), "")
        # Where some lines begin with a plus, a dash at the begin of another is a minus.
        self._signed_lines = {"+", "-"} <= {found.group(1) for found in _SIGNED_LINE.finditer(text)}
        self._in_single_letters = _SINGLE_LETTERS.search(text) is not None
        self._in_lower_case = letter.islower()  # a text that begins so says nothing by a line that does
        self._section: Section | None = None
        self._of_line = False  # the section ends with its line
        self._under: Answer | None = None  # what a heading on a line of its own says of all below it

    def statements(self) -> Iterator[Statement]:
        at = 0
        for start, end in self._paragraph_lines():
            for statement in self._line(start, end):
                if statement.start > at:  # blanks between the pieces go to the one before them
                    yield Statement(at, statement.start, None, at)
                yield statement
                at = statement.end
        if at < len(self._text):
            yield Statement(at, len(self._text), None, at)

    def _paragraph_lines(self) -> Iterator[tuple[int, int]]:
        """Lines, with those that only wrapped joined to the one before."""
        text = self._text
        start = end = 0
        longest = 0
        open_line = ""
        for found in _LINE.finditer(text):
            line = found.group().strip()
            if not line:
                if end > start:
                    yield start, end
                start = end = found.end()
                open_line, longest = "", 0
                self._section = self._under = None
                continue
            if open_line and not self._goes_on(open_line, line, longest):
                yield start, end
                start = found.start()
            end = found.end()
            open_line = line
            longest = max(longest, len(line))
        if end > start:
            yield start, end

    def _goes_on(self, before: str, line: str, longest: int) -> bool:
        answers = before[-1] == "?" and _ANSWER.match(line) is not None
        if not answers and any(mark.match(line) for mark in (_BULLET, _BOX, _SIGN, _BEGINS_ANEW)):
            return False
        if answers or before[-1] in _OPEN_END:
            return True
        first, last = line.split(None, 1)[0].lower(), before.rsplit(None, 1)[-1].lower()
        if before[-1] in ".!?;:" or _ANSWERED.search(before) or _key_of(line) is not None:
            return False
        if last in _WANTS_MORE and ":" not in before[-8:]:
            return True
        if line[0].islower() and (first in _GOES_ON or (len(before) >= _LONG_LINE and not self._in_lower_case)):
            return True
        # A capital begins a line, or a name in the middle of a full one; in lower case every line may be a new one.
        fuller = line[0].isupper() or self._in_lower_case
        full, eighths = (_FULL_WITH_NAME, 7) if fuller else (_FULL_LINE, 6)
        return len(before) >= full and len(before) * 8 >= longest * eighths

    def _line(self, start: int, end: int) -> Iterator[Statement]:
        if self._of_line:
            self._section, self._of_line = None, False
        heading = self._text[start:end].strip(_AROUND_NAME)
        if 1 < len(heading) <= _LONGEST_KEY and (_name(heading) in SECTIONS or _name(heading) in _SAID_BY):
            self._enter(_name(heading), alone=True)
            yield Statement(start, end, self._section, end)
            return
        for first, stop in self._items(start, end):
            yield from self._item(first, stop)

    def _items(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut a line at the bullets, numbers or boxes inside it."""
        text = self._text
        line = text[start:end]
        cuts: list[int] = []
        cells = [found.start() for found in _CELL.finditer(line) if _SAID.match(line, found.end()) is None]
        if cells:
            bounds = [0, *cells, len(line)]
            for first, stop in pairwise(bounds):
                yield start + first, start + stop
            return
        boxes = [found for found in _BOX.finditer(line) if _IS_BEHIND.match(line, found.start()) is None]
        if boxes and _WORD_BOXES.search(line) is None:
            cuts = [found.start() for found in boxes if not _YES_NO_BOXES.match(line, found.end())]
        if not cuts:
            bullet = _BULLET.match(line)
            after_key = _after_key(line)
            listed = bullet is not None or (after_key is not None and _BULLET.match(line, after_key) is not None)
            if listed:
                inner = _INNER_NUMBER if _numbered(line, 0 if bullet else after_key or 0) else _INNER_BULLET
                cuts = [found.start() for found in inner.finditer(line) if not _SAID.match(line, found.end())]
        bounds = [0, *(at for at in cuts if at > 0), len(line)]
        for first, stop in pairwise(bounds):
            yield start + first, start + stop

    def _item(self, start: int, end: int) -> Iterator[Statement]:
        text = self._text
        box = _BOX.match(text, _skip(text, start), end)
        if box is not None and not _YES_NO_BOXES.match(text, box.end()):
            ticked = any(group and group.strip() for group in box.groups())
            yield Statement(start, end, self._section, box.end(), "yes" if ticked else "no")
            return
        sign = _SIGN_OF_LINE.match(text, start, end) if self._signed_lines and _begins_line(text, start) else None
        if sign is not None and not self._signs(sign.end(), end):
            yield from self._signed(start, end, [(start, "yes" if sign.group(1) == "+" else "no")])
            return
        boxes = _WORD_BOXES.search(text, start, end)
        if boxes is not None and bool(boxes[2]) != bool(boxes[4]):
            word = boxes[1] if boxes[2] else boxes[3]
            yield Statement(
                start, boxes.end(), self._section, start, "yes" if word.lower()[0] == "y" else "no", asked=True
            )
            if boxes.end() < end:
                yield from self._spoken(boxes.end(), end)
            return
        pair = next(
            (found for found in _BOX.finditer(text, start, end) if _YES_NO_BOXES.match(text, found.end())), None
        )
        if pair is not None and ":" not in text[start : pair.start()]:
            said, after = _YesNo.read(text, pair.start(), end) or (None, pair.end())
            yield Statement(start, after, self._section, start, said, asked=True)
            if after < end:
                yield from self._item(after, end)
            return
        signs = self._signs(start, end)
        if signs:
            yield from self._signed(start, end, signs)
            return
        behind = self._answers_behind(start, end)
        at = start
        for first, stop, answer in behind:
            if first > at:
                yield from self._spoken(at, first)
            yield Statement(first, stop, self._section, first, answer)
            at = stop
        if at < end:
            yield from self._spoken(at, end)

    def _signed(self, start: int, end: int, signs: Sequence[tuple[int, Answer]]) -> Iterator[Statement]:
        """Each sign's findings, and the words between that say something themselves."""
        bounds = [start, *(at for at, _ in signs if at > start), end]
        said = dict(signs)
        for first, stop in pairwise(bounds):
            if first not in said:
                yield from self._spoken(first, stop)
                continue
            itself = _SAYS_ITSELF.search(self._text, first, stop)
            until = itself.end() if itself is not None else stop
            yield Statement(first, until, self._section, first, said[first])
            if until < stop:
                yield from self._spoken(until, stop)

    def _answers_behind(self, start: int, end: int) -> list[tuple[int, int, Answer]]:
        """Findings with their answer behind them: where each begins, where its answer ends, and what that is.

        What is a word of its own as well (no, n, x, a dash) counts where there are several.
        """
        text = self._text
        found = list(_ANSWER_BEHIND.finditer(text, start, end))
        weak = sum(match.lastgroup in _WEAK for match in found)
        certain = weak and any(match["plus"] or match["plus_apart"] for match in found)
        if weak < _FEWEST_WEAK and not certain and not self._in_single_letters:
            found = [match for match in found if match.lastgroup not in _WEAK]
        pieces: list[tuple[int, int, Answer]] = []
        at = start
        for match in found:
            cuts = [piece.end() for piece in _BETWEEN_PIECES.finditer(text, at, match.start())]
            first = _skip(text, cuts[-1] if cuts else at)
            if first < match.start() and match.start() - first <= _LONGEST_PIECE:
                pieces.append((first, match.end(), "yes" if match.lastgroup in _YES else "no"))
            at = match.end()
        return pieces

    def _signs(self, start: int, end: int) -> list[tuple[int, Answer]]:
        """Plus and minus before findings: in brackets always; bare only where both are there, else they are bullets."""
        line = self._text[start:end]
        if _signs_stand_behind(line):
            return []
        found = [
            (match.start(), match.group(1) or match.group(2), bool(match.group(1))) for match in _SIGN.finditer(line)
        ]
        if not found:
            return []
        bare = {sign for _, sign, bracketed in found if not bracketed}
        both = "+" in bare and len(bare) > 1
        return [
            (start + at, "yes" if sign == "+" else "no")
            for at, sign, bracketed in found
            if bracketed or both or sign == "+"
        ]

    def _spoken(self, start: int, end: int) -> Iterator[Statement]:
        """Cut at keys with their values and at questions with their answers."""
        at = start
        while at < end:
            row = self._row(at, end)
            if row is not None:
                yield row
                at = row.end
                continue
            if (dash := self._heading_with_dash(at, end)) is not None:
                at = yield from self._keyed(_skip(self._text, at), dash, end)
                continue
            key = self._next_key(at, end)
            question = self._next_question(at, key[1] if key is not None else end, end)
            if question is not None:
                asked_from, after, said = question
                if asked_from > at:
                    yield Statement(at, asked_from, self._section, at)
                yield Statement(asked_from, after, self._section, asked_from, said, asked=True)
                at = after
                continue
            if key is None:
                yield Statement(at, end, self._section, at, self._under)
                return
            label, colon = key
            if label > at:
                yield Statement(at, label, self._section, at)
            at = yield from self._keyed(label, colon, end)

    def _row(self, start: int, end: int) -> Statement | None:
        """A row of a form that begins here, with nothing but its answer behind the name."""
        row = _ROW.match(self._text, start, end)
        said = _SAID.match(self._text, row.end(), end) if row is not None else None
        if row is None or said is None:
            return None
        return Statement(start, said.end(), self._section, start, _answer_of(said))

    def _heading_with_dash(self, start: int, end: int) -> int | None:
        """Where the dash stands of "PMH - asthma" that begins here."""
        row = _ROW.match(self._text, start, end)
        return row.end(1) if row is not None and _name(row.group(1)) in SECTIONS else None

    def _keyed(self, label: int, colon: int, end: int) -> Generator[Statement, None, int]:
        """One key and what is said behind it, up to where the next begins. Returns that place."""
        text = self._text
        name = _name(text[label:colon])
        alone = _skip_marks(text, colon, end) >= end
        self._enter(name, alone=alone)
        if name in _SAID_BY and not alone:
            sentence = _SENTENCE_END.search(text, colon + 1, end)
            stop = min(sentence.end() if sentence else end, (self._next_key(colon + 1, end) or (end, end))[0])
            yield Statement(label, stop, self._section, label, _SAID_BY[name])
            return stop
        said, after = self._said(colon + 1, end)
        if said is not None:
            yield Statement(label, after, self._section, label, said)
            return after
        key = self._next_key(colon + 1, end)
        question = self._next_question(colon + 1, key[1] if key is not None else end, end)
        stop = min(question[0] if question is not None else end, key[0] if key is not None else end)
        if stop <= colon + 1 and question is not None:  # "Q: Any cough? No"
            _, after, answer = question
            yield Statement(label, after, self._section, colon + 1, answer, asked=True)
            return after
        yield Statement(label, stop, self._section, colon + 1)
        return stop

    def _said(self, start: int, end: int) -> tuple[Answer | None, int]:
        """What stands behind a colon, where it is nothing but an answer; and where that ends."""
        text = self._text
        boxes = _YesNo.read(text, start, end)
        if boxes is not None:
            return boxes
        found = _SAID.match(text, start, end)
        if found is None:
            return None, start
        return _answer_of(found), found.end()

    def _enter(self, name: str, *, alone: bool) -> None:
        section = SECTIONS.get(name)
        self._under = _SAID_BY.get(name) if alone else None
        if section is not None:
            self._section, self._of_line = section, not alone
        elif name in _ORGANS:
            if self._section not in ("review", "exam"):
                self._section = None
        elif self._of_line:
            self._section = None

    def _next_key(self, start: int, end: int) -> tuple[int, int] | None:
        """The next words before a colon: where they begin, and the colon."""
        text = self._text
        at = start
        while (colon := text.find(":", at, end)) >= 0:
            at = colon + 1
            if at < end and not (text[at].isspace() or text[at] in "[☐☑☒(-+−"):
                continue
            low = max(start, colon - _LONGEST_KEY)
            stretch = text[low:colon]
            ends = [found.end() for found in _SENTENCE_END.finditer(stretch)]
            begin = low + (ends[-1] if ends else 0)
            if start > 0 and low == start and not ends:
                comma = text.rfind(",", begin, colon)
                if comma >= 0 and _SAID.match(text, start) is None and self._after_colon(start):
                    begin = comma + 1
            bullet = _BULLET.match(text, begin, colon)
            begin = _skip_marks(text, bullet.end() if bullet is not None else begin, colon)
            words = text[begin:colon].split()
            if not words or not words[0][0].isalpha():
                continue
            known = self._known_suffix(begin, colon)
            if known is not None:
                return known, colon
            if len(words) <= _MOST_KEY_WORDS and (low == start or ends):
                return begin, colon
        return None

    def _after_colon(self, start: int) -> bool:
        return self._text[start - 1] == ":"

    def _known_suffix(self, begin: int, colon: int) -> int | None:
        """Where a known heading begins, if the words before the colon end with one."""
        words = list(re.finditer(r"\S+", self._text[begin:colon]))
        for count in range(min(5, len(words)), 0, -1):
            first = begin + words[-count].start()
            name = _name(self._text[first:colon])
            whole = count == len(words)
            if name in SECTIONS and (whole or (len(name) > 1 and self._text[first].isupper())):
                return first
        return None

    def _next_question(self, start: int, stop: int, end: int) -> tuple[int, int, Answer] | None:
        """A question that is answered: where it begins, where the answer ends, and the answer."""
        text = self._text
        at = start
        while (mark := text.find("?", at, stop)) >= 0:
            at = mark + 1
            said, after = _YesNo.read(text, mark + 1, end) or (None, mark)
            answer = _ANSWER.match(text, mark + 1, min(end + 40, len(text)))
            if said is None and answer is not None and answer.end() <= end:
                said, after = _answer_of(answer), answer.end()
            if said is not None:
                before = [found.end() for found in _SENTENCE_END.finditer(text, start, mark)]
                return _skip(text, before[-1] if before else start), after, said
        return None


class _YesNo:
    """Boxes for yes and no behind a key, as forms have them."""

    @staticmethod
    def read(text: str, start: int, end: int) -> tuple[Answer | None, int] | None:
        at = _skip(text, start)
        ticked: Answer | None = None
        seen = 0
        while (box := _BOX.match(text, at, end)) is not None:
            word = _YES_NO_BOXES.match(text, box.end(), end)
            if word is None:
                break
            seen += 1
            if any(group and group.strip() for group in box.groups()):
                ticked = "yes" if word.group(1).lower().startswith("y") else "no"
            at = word.end()
        return (ticked, at) if seen else None


def _signs_stand_behind(line: str) -> bool:
    """Whether signs that are surely some follow their findings: after the last one nothing is named."""
    ends = [found.end() for found in _CLEAR_SIGN.finditer(line)]
    return bool(ends) and _LETTERS_NEXT.match(line, ends[-1]) is None


def _begins_line(text: str, at: int) -> bool:
    return not text[max(text.rfind("\n", 0, at), 0) : at].strip()


def _answer_of(found: re.Match[str]) -> Answer:
    return cast(Answer, found.lastgroup)


def _box_end(line: str, at: int) -> int:
    found = _BOX.match(line, at)
    assert found is not None
    return found.end()


def _numbered(line: str, at: int) -> bool:
    found = _BULLET.match(line, at)
    return found is not None and any(sign.isdigit() for sign in found.group())


def _after_key(line: str) -> int | None:
    colon = line.find(":", 0, _LONGEST_KEY)
    return colon + 1 if colon > 0 else None


def _key_of(line: str) -> str | None:
    """The name before a line's first colon, if it looks like a heading or a key."""
    colon = line.find(":", 0, _LONGEST_KEY)
    if colon < 1 or not line[0].isalpha() or any(sign in line[:colon] for sign in ".;!?"):
        return None
    return line[:colon] if len(line[:colon].split()) <= _MOST_KEY_WORDS else None


def _name(words: str) -> str:
    return " ".join(words.lower().replace("*", " ").replace("_", " ").split())


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found is not None else at


def _skip_marks(text: str, at: int, end: int) -> int:
    while at < end and not text[at].isalnum():
        at += 1
    return at
