"""The head's opinion and the rules are weighed by tables that a manifest carries."""

import json
import math

import numpy as np
import pytest

from clinical.assertion_head import BY, AssertionHead, opinions
from clinical.entities import ASSERTIONS, Assertion, By, Pieces, Ruling, ScoredSpan
from clinical.labelling import Floats
from training.ner.assertions import asserted, assertion_report, by_rules, fit_head
from training.ner.corpus import MarkedLine, Mention, parse

PRESENT, NEGATED = ASSERTIONS.index("present"), ASSERTIONS.index("negated")


def pieces(*places: tuple[int, int]) -> Pieces:
    starts, ends = (np.array(side, dtype=np.int64) for side in zip(*places, strict=True))
    return Pieces(np.arange(len(starts)), starts, ends, np.arange(len(starts)))


def surely(which: int, length: int = 1, by: float = 5.0) -> Floats:
    logits = np.zeros((length, len(ASSERTIONS)), dtype=np.float32)
    logits[:, which] = by
    return logits


def head(slope: float = 1.0, right: float = 0.9) -> AssertionHead:
    size = len(ASSERTIONS)
    rules = np.log(np.where(np.eye(size) > 0, right, (1 - right) / (size - 1))).astype(np.float32)
    prior = np.log(np.full(size, 1 / size)).astype(np.float32)
    return AssertionHead(np.full(len(BY), slope, dtype=np.float32), np.stack([rules] * len(BY)), prior)


def ruled(*said: Assertion, by: By = "words") -> list[Ruling]:
    return [Ruling(one, by) for one in said]


def test_an_opinion_is_the_mean_of_a_mention_s_pieces_only() -> None:
    logits = np.concatenate([surely(NEGATED), surely(PRESENT), surely(PRESENT, by=3.0), surely(NEGATED)])
    found = opinions(pieces((0, 2), (3, 6), (6, 9), (10, 12)), logits, [ScoredSpan("SYMPTOM", 3, 9, 0.9)])
    assert found.shape == (1, len(ASSERTIONS))
    assert found[0].argmax() == PRESENT
    assert found[0, PRESENT] - found[0, NEGATED] == pytest.approx(4.0)
    assert np.exp(found).sum() == pytest.approx(1.0)


def test_whoever_is_surer_wins_and_types_without_assertion_keep_the_rules() -> None:
    places = [ScoredSpan("SYMPTOM", 0, 2, 0.9), ScoredSpan("DURATION", 3, 5, 0.9)]
    opinion = opinions(pieces((0, 2), (3, 5)), surely(PRESENT, 2, by=8.0), places)
    denied = ruled("negated", "negated")
    assert head(slope=1.0).together(places, opinion, denied) == ["present", "negated"]
    assert head(slope=0.1).together(places, opinion, denied) == ["negated", "negated"]


def test_beside_a_ticked_box_the_head_is_heard_less_than_beside_silence() -> None:
    flat = head()
    flat.slopes[BY.index("structure")] = 0.1
    places = [ScoredSpan("SYMPTOM", 0, 2, 0.9)]
    opinion = opinions(pieces((0, 2)), surely(PRESENT, by=8.0), places)
    assert flat.together(places, opinion, ruled("negated", by="structure")) == ["negated"]
    assert flat.together(places, opinion, ruled("negated", by="words")) == ["present"]


def test_no_mention_no_opinion() -> None:
    assert opinions(pieces((0, 1)), surely(PRESENT), []).shape == (0, len(ASSERTIONS))
    assert head().together([], np.empty((0, len(ASSERTIONS)), dtype=np.float32), []) == []


def test_parameters_come_back_as_they_were() -> None:
    written = json.loads(json.dumps(head().parameters()))
    again = AssertionHead.of(written)
    assert again.slopes.tolist() == [1.0] * len(BY)
    assert np.allclose(again.rules, head().rules, atol=1e-3)
    assert np.allclose(again.prior, head().prior, atol=1e-3)


@pytest.mark.parametrize(
    "broken",
    [{}, {"labels": ["present"]}, head().parameters() | {"slopes": [1.0]}, head().parameters() | {"by": ["words"]},
     head().parameters() | {"prior": [math.nan] * len(ASSERTIONS)}],
)  # fmt: skip
def test_parameters_that_are_none_are_refused(broken: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        AssertionHead.of(broken)


def line(marked: str) -> MarkedLine:
    found = parse(marked)
    assert isinstance(found, MarkedLine)
    return found


LINES = [
    line("has a [cough](SYMPTOM:present) but no [fever](SYMPTOM:negated)"),
    line("denies [rash](SYMPTOM:negated) and [pain](SYMPTOM:negated)"),
    line("[asthma](CONDITION:historical) as a child, [severe](SEVERITY)"),
] * 10


def all_present(text: str, mentions: list[Mention]) -> Floats:
    return np.log(np.full((len(mentions), len(ASSERTIONS)), 1 / len(ASSERTIONS), dtype=np.float32))


def test_a_head_without_an_opinion_leaves_it_to_the_rules() -> None:
    fitted = fit_head(LINES, LINES, all_present)
    assert fitted is not None
    report = assertion_report(LINES, all_present, fitted)
    assert report["mentions"] == 50
    assert report["together"]["right"] == report["rules"]["right"] == 1.0
    assert report["together"]["by_assertion"]["negated"] == {"right": 1.0, "low": 0.8865, "high": 1.0, "mentions": 30}
    assert report["head"]["by_assertion"]["family"]["right"] is None


def test_too_few_marks_fit_nothing() -> None:
    assert fit_head(LINES, LINES[:3], all_present) is None
    assert fit_head([], LINES, all_present) is None
    assert asserted(line("[fever](SYMPTOM), [3 days](DURATION)")) == []


def test_the_use_of_a_drug_decides_what_the_rules_say_of_it() -> None:
    drug = line("Allergies: [penicillin](MEDICATION:allergy)")
    assert by_rules(drug, asserted(drug)) == [Ruling("negated", "structure")]
