"""What the short forms of clinical notes stand for, where the text does not say it: CP, HA, s/p MI, DM2, N/V/D.

An encoder without capitals reads HA as a laugh and MI as a name. A table gives each short form its senses; the words
of its statement choose among them, and without such a word the first sense holds. A sense may be that nothing is named:
RA beside a saturation is room air. `settle` of clinical.abbreviations comes after, so that what a text defines itself
stands above the table.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from clinical.entities import ScoredSpan
from clinical.note_structure import Statement


@dataclass(frozen=True, slots=True)
class _Sense:
    """A type, or None for what is no mention, and words of the statement that speak for it."""

    type: str | None
    beside: re.Pattern[str] | None = None


def _senses(type_: str | None, *others: tuple[str | None, str]) -> tuple[_Sense, ...]:
    return (_Sense(type_), *(_Sense(kind, re.compile(rf"(?:{words})", re.IGNORECASE)) for kind, words in others))


_ALWAYS: Final = {
    "SYMPTOM": """SOB DOE SOBOE LBP BRBPR PND JVD AMS FTT LUTS  SI AH VH""",
    "CONDITION": """
        DM DM1 DM2 T1DM T2DM DMII IDDM NIDDM GDM HTN HLD HL CAD CHF HFrEF HFpEF COPD CKD CKD3 CKD4 ESRD AKI ARF UTI
        UTIs DVT CVA TIA AF Afib AFib SVT VT VF GERD PUD IBS IBD OSA SLE BPH PVD PAD TB HIV HCV PNA CAP HAP URI AOM PTSD
        MDD
        GAD ADHD OCD BPD SBO GIB UGIB LGIB MI NSTEMI STEMI ACS AAA SAH SDH ICH TBI ALS PCOS NASH NAFLD HCC NSCLC SCLC
        AML CLL CML DKA HHS SIADH DIC ITP TTP VTE BPPV PMR GCA ILD IPF ARDS AVN RSV PID STI STD DJD OA RSD CRPS""",
    "MEDICATION": """
        ASA APAP NTG HCTZ MTX PCN ABX abx NSAID NSAIDs OCP OCPs PPI PPIs ACEi ACEI ARB CCB SSRI SSRIs SNRI TCA TPN
        KCl INH MSO4 LMWH UFH tPA PRBC PRBCs pRBCs FFP IVIG DOAC ICS LABA LAMA HRT""",
    "TEST": """
        CBC BMP CMP LFT LFTs TFTs TSH CXR KUB EKG ECG EEG EMG MRI MRA CT CTA CTPA TTE TEE ABG VBG UA BNP ESR CRP INR PTT
        aPTT APTT HbA1c A1c A1C BUN Hgb Hct WBC BP SpO2 LVEF PFTs FEV1 PSA BMI""",
    "PROCEDURE": """CABG PCI TKA TKR THA THR TURP CPAP BiPAP BIPAP ORIF CPR TIPS I&D""",
}
_BY_CONTEXT: Final[dict[str, tuple[_Sense, ...]]] = {
    "CP": _senses("SYMPTOM", ("CONDITION", r"cerebral|spastic|GMFCS|wheelchair|quadripleg|dipleg|botox")),
    "HA": _senses("SYMPTOM", (None, r"filler|hyaluron|hemagglut|influenza A|H\dN\d|hydroxyapatite|coated")),
    "PE": _senses(
        "CONDITION",
        (None, r"\bPE ?[:=-]|\bon PE\b|PE (?:was|is|notable|significant|unremarkable|shows?|reveals?|normal|wnl)"),
    ),
    "RA": _senses(
        "CONDITION", (None, r"\b(?:on|in|at) RA\b|% ?(?:on )?RA|\bsats?\b|SpO2|\bO2\b|satting|atri|RV|pressure|PCWP")
    ),
    "MS": _senses(
        "CONDITION",
        ("MEDICATION", r"MS ?\d+ ?m[gc]|\d+ ?mg (?:of )?MS|MS contin|MS IR|MS (?:IV|PO)"),
        (None, r"MS change|(?:altered|baseline|clear) MS|MS (?:intact|clear|exam|3rd|[IV]+ year)|\bMSc?,|PhD|\bMs\b"),
    ),
    "PT": _senses(
        None,
        ("TEST", r"\bPT ?/ ?(?:INR|a?PTT)|INR|prolonged PT|coags?\b"),
        (
            "PROCEDURE",
            r"PT ?/ ?OT|\bPT (?:consult|for|twice|session|referral|exercises)"
            r"|(?:outpatient|continue|started|refer\w*(?: to)?) PT\b",
        ),
    ),
    "HR": _senses("TEST", (None, r"hazard|95 ?% ?(?:CI|confidence)|\bCI\b|P ?[<=] ?0?\.\d")),
    "RR": _senses("TEST", (None, r"relative risk|risk ratio|95 ?%|\bCI\b|P ?[<=] ?0?\.\d")),
    "EF": _senses("TEST"),
    "LOC": _senses("SYMPTOM", (None, r"level|\bLOC ?[:=-]|LOC (?:alert|intact|x ?\d)")),
    "HI": _senses("SYMPTOM", (None, r"glucose|sugar|\bBG\b|[\"“]HI")),
    "IVF": _senses("MEDICATION", (None, r"fertil|embryo|cycle|egg|pregnan|conceiv|regarding")),
    "CI": _senses(None, ("TEST", r"cardiac index|\bCO\b|PCWP|SVR|swan")),
    "OR": _senses(None),
    "CF": _senses("CONDITION", (None, r"\b(?:cf\.|compare|colony)")),
    "PCP": _senses(
        None,
        ("CONDITION", r"pneumo|HIV|CD4|prophylaxis|bactrim|induced sputum"),
        ("MEDICATION", r"angel dust|phencycl|ingest|tox(?:icology)? screen|smoked"),
    ),
    "NS": _senses(None, ("MEDICATION", r"\bcc\b|\bmL\b|bolus|infus|liter|\d ?L\b|IV\b")),
    "LR": _senses(None, ("MEDICATION", r"\bcc\b|\bmL\b|bolus|infus|liter|\d ?L\b|IV\b")),
    "LAD": _senses(
        None,
        ("SYMPTOM", r"no LAD|cervical|axillary|inguinal|neck|nodes?|supple|HEENT"),
        (None, r"stent|stenos|occlu|artery|lesion|cath|PCI|RCA|LCx"),
    ),
    "US": _senses(None, ("TEST", r"abdominal US|renal US|RUQ US|US of|US (?:shows?|showed|abd|guided)|doppler")),
    "UC": _senses("CONDITION", (None, r"urgent|visit")),
    "ED": _senses(None, ("CONDITION", r"erect|sildenafil|tadalafil|viagra|impoten")),
    "HD": _senses(None, ("PROCEDURE", r"ESRD|dialy|MWF|TTS|on HD|missed HD|fistula|TThS")),
    "BS": _senses(None, ("TEST", r"\bBS (?:\d|of|was|check|high|low)|glucose|insulin|sugar|fasting")),
    "OM": _senses("CONDITION", (None, r"OM[12]|stent|graft|SVG")),
    "AS": _senses(None, ("CONDITION", r"aortic|valve|AVR|TAVR|murmur|(?:severe|moderate|mild|critical) AS\b|spondyl")),
    "D&C": _senses("PROCEDURE"),
}
TABLE: Final[dict[str, tuple[_Sense, ...]]] = {
    short: _senses(kind) for kind, shorts in _ALWAYS.items() for short in shorts.split()
} | _BY_CONTEXT
# Single letters mean something beside each other only.
_LETTERS: Final = re.compile(r"(?<![\w/])(?:N/V(?:/[DCF](?!\w))*|F/C(?:/[NVDS](?!\w))*|[NV]/D)(?!\w)")
_SHORT: Final = re.compile(
    rf"(?<![\w&-])(?:{'|'.join(re.escape(one) for one in sorted(TABLE, key=len, reverse=True))})(?![\w&-])"
)
_BETWEEN: Final = re.compile(r"[\s/,+&]*")
_SHOUTED: Final = 0.6  # the share of capitals from which they say nothing
_LEAST_LETTERS: Final = 8
_AROUND: Final = 60  # code points to either side that choose a sense
_MOST_SEEN: Final = 400
_ALSO_WORDS: Final = frozenset(
    (
        *("AF", "AH", "ALS", "AS", "BS", "CAP", "CI", "ED", "EF", "HA", "HI", "HL", "ICS", "LOC"),
        *("MI", "MS", "OA", "OM", "OR", "PE", "PT", "RA", "SI", "US"),
    )
)


@dataclass(frozen=True, slots=True)
class _Short:
    """A short form in a text: what it is, and what it may be."""

    start: int
    end: int
    type: str | None
    types: frozenset[str | None]


def expand(text: str, found: Sequence[ScoredSpan], parts: Sequence[Statement], score: float) -> list[ScoredSpan]:
    """The mentions of a text with each short form of the table as its sense is; `parts` are its statements.

    A mention of nothing but short forms is cut into them; one of a type that its short form may be of stays of it, any
    other becomes the sense's, and what was not found is added, both at `score`: how often the table is right.
    """
    shorts = _shorts(text, parts)
    if not shorts:
        return list(found)
    starts = [short.start for short in shorts]
    kept: list[ScoredSpan] = []
    free = set(range(len(shorts)))
    for span in found:
        inside = range(bisect_left(starts, span.start), bisect_left(starts, span.end))
        row = [shorts[at] for at in inside]
        free.difference_update(inside)
        if not row or not _is_nothing_else(text, span, row):
            kept.append(span)
            continue
        for short in row:
            if span.type in short.types and short.type is not None:
                kept.append(replace(span, start=short.start, end=short.end))
            elif short.type is not None:
                kept.append(ScoredSpan(short.type, short.start, short.end, score))
    ends = [span.end for span in kept]
    added = []
    for at in free:
        short = shorts[at]
        after = bisect_right(ends, short.start)
        if short.type is not None and (after == len(kept) or kept[after].start >= short.end):
            added.append(ScoredSpan(short.type, short.start, short.end, score))
    return sorted([*kept, *added], key=lambda span: span.start)


def _is_nothing_else(text: str, span: ScoredSpan, row: Sequence[_Short]) -> bool:
    at = span.start
    for short in row:
        if _BETWEEN.fullmatch(text, at, short.start) is None:
            return False
        at = short.end
    return at == span.end


def _shorts(text: str, parts: Sequence[Statement]) -> list[_Short]:
    """The short forms of a text in order."""
    places = [(match.start(), match.end()) for match in _SHORT.finditer(text)]
    letters = [match.span() for match in _LETTERS.finditer(text)]
    if not places and not letters:
        return []
    found = [
        _Short(at, at + 1, "SYMPTOM", frozenset({"SYMPTOM"}))
        for start, end in letters
        for at in range(start, end)
        if text[at] != "/"
    ]
    begins = [part.start for part in parts]
    shouted: dict[int, bool] = {}
    for start, end in places:
        if any(first <= start < last for first, last in letters):
            continue
        at = bisect_right(begins, start) - 1
        part, short = parts[at], text[start:end]
        if short in _ALSO_WORDS:
            if at not in shouted:
                shouted[at] = _is_shouted(text, part)
            if shouted[at]:
                continue
        senses = TABLE[short]
        around = text[max(part.start, start - _AROUND) : min(part.end, end + _AROUND)]
        chosen = next((one for one in senses[1:] if one.beside is not None and one.beside.search(around)), None)
        types = frozenset({(chosen or senses[0]).type} if chosen else {one.type for one in senses})
        found.append(_Short(start, end, (chosen or senses[0]).type, types))
    return sorted(found, key=lambda one: one.start)


def _is_shouted(text: str, part: Statement) -> bool:
    """Whether a statement is written in capitals, its short forms aside."""
    letters = [sign for sign in _SHORT.sub("", text[part.start : part.end][:_MOST_SEEN]) if sign.isalpha()]
    return len(letters) >= _LEAST_LETTERS and sum(sign.isupper() for sign in letters) > _SHOUTED * len(letters)
