"""The headings of notes by name: which section each begins, and which say something of all that stands below them."""

import re
from typing import Final, Literal

from clinical.note_answers import Answer


def word_set(table: str) -> frozenset[str]:
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
        "allergies | allergy | allergic | allergies and intolerances | allergy list | adverse reactions | intolerances"
        " | drug allergies | all | allergic to | adrs",
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
# What stands under these is so now.
OF_NOW: Final[frozenset[Section]] = frozenset({"present illness", "exam", "tests", "review"})
# Headings that say of all behind them that it is not there, or may be.
_VERDICTS: Final[tuple[tuple[Answer, str], ...]] = (
    (
        "no",
        "denies | denied | negative | negatives | neg | none | absent | no | pertinent negatives | negative for"
        " | neg for | denies any | ros negative for | negative ros | not present | patient denies | pt denies"
        " | no complaints of | relevant negatives",
    ),
    (
        "maybe",
        "ddx | dd | ddx includes | differential | differentials | differential diagnosis | differential diagnoses"
        " | possible diagnoses | r/o | rule out | query | considered | to consider",
    ),
)
SAID_BY: Final[dict[str, Answer]] = {name.strip(): said for said, names in _VERDICTS for name in names.split("|")}
# "Patient denies the following:", "The following symptoms are absent:", "Pt has none of the following:".
_DENYING: Final = re.compile(
    r"(?:.{0,50}\b)?(?:denies|denied|absent|not present|not reported|none)(?: (?:all|any))?(?: of)?(?: the)?"
    r"(?: following)?(?: symptoms| signs| complaints)?"
)


def verdict_of(name: str) -> Answer | None:
    """What words before a colon say of all that stands behind or below them; `name` is in lower case."""
    return SAID_BY.get(name) or ("no" if _DENYING.fullmatch(name) is not None else None)


# Headings of a review of systems or of an examination: they go on with the section that they stand in.
ORGANS: Final = word_set("""
    skin neuro neurologic neurological cns gi gu cv cvs cardiac cardiovascular resp respiratory pulm pulmonary lungs
    chest heart heent head eyes ears nose throat ent neck msk musculoskeletal extremities ext abd abdomen abdominal
    psych psychiatric constitutional general gen endo endocrine heme hematologic lymph derm genitourinary
    gastrointestinal back limbs mouth breast vascular rectal pelvic mental
""")
