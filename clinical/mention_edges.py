"""Where a mention ends: against a negation, and against words that are no part of any.

"didn't vomit" is a negation and "vomit", "can't sleep" is one symptom.

A lost function is said with a negation that belongs to it, and there is no end of functions to lose; complaints are a
closed class. So the negation goes out before a complaint and stays in before all else (GUIDELINE.md, boundary 3).
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from clinical.entities import ScoredSpan

_NEGATION: Final = re.compile(
    r"(?:(?:do|does|did|is|are|was|were|has|have|had|ai)(?:n['’]?t|[ ]not)|not|no|never|without|denies|denied)\b"
    r"(?:[ ](?:any|been|be|being|feel|feels|feeling|felt|have|had|having|get|gets|getting|got|really|actually|"
    r"experiencing|experienced|a|an|so|too|very|that|at|all))*",
    re.IGNORECASE,
)
_COMPLAINT: Final = re.compile(
    r"[ ]*(?:short[ ]of[ ]breath|sob\b|out[ ]of[ ]breath|pass(?:ed|ing)?[ ]out|black(?:ed|ing)?[ ]out|threw[ ]up|"
    r"throw(?:ing|n|s)?[ ]up|los(?:e|t|ing)[ ]consciousness|run(?:ning|ny)\b|ach|anxious|bleed|bled|bloat|blurr|bruis|"
    r"burn|chill|chok|cold\b|confus|congest|constipat|convuls|cough|cramp|cyano|depress|diarrh|dizz|drool|exhaust|"
    r"faint|fall|fatigu|fell\b|fever|gag|hallucinat|headach|heav|hot\b|hurt|itch|jaundic|lighthead|limp|naus|numb|"
    r"pain|palpitat|puk|queas|rash|red\b|retch|seiz|shak|shiver|sick|snor|sore|spinning|stiff|stuff|suicid|sweat|"
    r"swell|swollen|syncop|tender|tired|tingl|trembl|tremor|unwell|vertig|vomit|weak|wheez|winded|yellow)",
    re.IGNORECASE,
)


_TYPES_OF_AMOUNTS: Final = frozenset({"DOSAGE", "DURATION", "SEVERITY"})
# Words that a mention never ends with, and of which alone it never consists.
_JOINING: Final = r"(?:and|or|nor|but|with|of|the|a|an|in|on|at|to|for|from|by|is|was|has|had|have)"
_FRAGMENT: Final = re.compile(
    rf"(?:(?:{_JOINING}|feels?|feeling|felt|got|acute|chronic|can['’]?t|cannot|can|don['’]?t|do|not|no|kgs?|mg|mcg|ml|cm|mm"
    r"|iv|po|im|sc|\d+(?:[.,/:]\d+)?)\b|[^\w])+",
    re.IGNORECASE,
)
_LOOSE_END: Final = re.compile(rf"(?:[ ,;/&]+{_JOINING})+$", re.IGNORECASE)


def without_fragments(text: str, found: Sequence[ScoredSpan]) -> list[ScoredSpan]:
    """The mentions of `text` without those that are a unit, a number or a joining word, and without such an end."""
    kept = []
    for span in found:
        if span.type in _TYPES_OF_AMOUNTS:
            kept.append(span)
            continue
        loose = _LOOSE_END.search(text, span.start, span.end)
        whole = span if loose is None else replace(span, end=loose.start())
        if _FRAGMENT.fullmatch(text, whole.start, whole.end) is None:
            kept.append(whole)
    return kept


def outside_negation(text: str, found: Sequence[ScoredSpan]) -> list[ScoredSpan]:
    """The mentions of `text` without a negation that one of them took along, and without any that is nothing else."""
    kept = []
    for span in found:
        negation = _NEGATION.match(text, span.start, span.end)
        if negation is None:
            kept.append(span)
        elif (complaint := _COMPLAINT.match(text, negation.end(), span.end)) is not None:
            kept.append(
                replace(span, start=complaint.start() + len(complaint.group()) - len(complaint.group().lstrip()))
            )
        elif negation.end() < span.end:
            kept.append(span)
    return kept
