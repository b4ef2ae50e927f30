"""The page on a NER version: every mistake in its place, nothing that loads, text that cannot break out."""

import re

from clinical.entities import ENTITY_TYPES, ScoredSpan
from training.ner.corpus import MarkedLine, parse
from training.ner.evaluation import report
from training.ner.report import confusion, page


def line(marked: str) -> MarkedLine:
    found = parse(marked, register="post", number=1)
    assert isinstance(found, MarkedLine)
    return found


LINES = [
    line("[severe](SEVERITY) [chest pain](SYMPTOM), no [asthma](CONDITION)"),
    line("took [aspirin](MEDICATION) <script>alert(1)</script>"),
    line("nothing here"),
]
FOUND = [
    [ScoredSpan("SEVERITY", 0, 6, 0.9), ScoredSpan("SYMPTOM", 13, 17, 0.6), ScoredSpan("SYMPTOM", 22, 28, 0.5)],
    [ScoredSpan("MEDICATION", 5, 12, 0.95)],
    [],
]


def whole() -> str:
    told = report(LINES, FOUND)
    return page("clinical_ner", {**told, "fp32": told, "int8": told}, LINES, FOUND)


def test_mistakes_are_marked_in_their_text_and_right_lines_are_left_out() -> None:
    made = whole()
    assert "Mistakes: 1 of 3 lines" in made
    assert '<mark class="right">severe<sub>severity</sub></mark>' in made
    assert '<mark class="missed">chest pain<sub>symptom</sub></mark>' in made
    assert '<mark class="extra">pain<sub>symptom</sub></mark>' in made
    assert '<mark class="extra">asthma<sub>symptom</sub></mark>' in made
    assert "took" not in made


def test_the_page_loads_nothing_and_text_cannot_break_out() -> None:
    shown = page(
        "n", {**report(LINES, FOUND), "fp32": report(LINES, FOUND), "int8": report(LINES, FOUND)}, LINES, [[], [], []]
    )
    assert "&lt;script&gt;" in shown
    assert not re.search(r"<script|<img|<link|<iframe|url\((?!#)|@import", shown)
    assert shown.count("<figure>") == 3
    assert whole() == whole()


def test_confusion_pairs_the_same_type_first() -> None:
    counts = confusion(LINES, FOUND)
    assert counts["SYMPTOM", "SYMPTOM"] == 1
    assert counts["CONDITION", "SYMPTOM"] == 1
    assert counts["SEVERITY", "SEVERITY"] == counts["MEDICATION", "MEDICATION"] == 1
    assert sum(counts[kind, "nothing"] for kind in ENTITY_TYPES) == 0
