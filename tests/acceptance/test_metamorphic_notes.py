"""What is found in a plain statement is found again, the same, when it is written as people write notes."""

import random

from benchmarks.metamorphic_notes import Console, tally
from registry.store import StoredModel
from runners.ner import NerRunner
from tests.metamorphic import plain_statements, written


def test_a_thousand_notes_say_what_their_statements_say(ner_model: StoredModel) -> None:
    runner = NerRunner(ner_model.path, ner_model.manifest.parameters)
    notes = list(written(plain_statements(), seed=7))
    found, seen, right = tally(runner, random.Random(7).sample(notes, 1000), Console(quiet=True))
    count = sum(of.notes for of in found.values())
    lost = sum(of.lost for of in found.values())
    clean = [of for name, of in found.items() if name != "typo beside"]
    assert seen > 330
    assert right > seen * 0.97
    assert sum(of.otherwise for of in clean) <= 0.02 * count
    assert lost <= 0.03 * count
