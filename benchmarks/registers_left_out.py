"""How far the scores of the entity recogniser can be believed on kinds of text that it has not learnt from.

    python -m benchmarks.registers_left_out                  three groups of registers, some minutes each

Each group of registers is left out in turn: the encoder learns from the others and is asked about the group. Printed
are F1 and the calibration error of both readings of a score (right to the letter; right, edges aside) under the
calibration that the usual calibration lines give, under the one of the other groups left out, and half way between the
two. The last line is the calibration that the left-out groups would have, pooled.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from clinical.entities import ASSERTIONS, LABELS, Calibration
from clinical.labelling import Floats
from training.ner import corpus, encoder
from training.ner.corpus import MarkedLine
from training.ner.evaluation import (
    expected_calibration_error,
    fit_calibration,
    relaxed_hits,
    score,
    scores_and_hits,
    strict_hits,
)
from training.ner.export import Tagger, export
from training.ner.fit import FitConfig, fit
from training.progress import progress_bar

GROUPS = {
    "patients' words": ("patient_posts.txt", "home_checkins.txt", "plain_sentences.txt"),
    "research": ("abstracts.txt", "case_reports.txt", "abbreviations.txt"),
    "notes": ("nursing_notes.txt", "progress_notes.txt", "discharge_letters.txt", "structured_notes.txt"),
}
READINGS = {"to the letter": strict_hits, "edges aside": relaxed_hits}


@dataclass(frozen=True)
class LeftOut:
    """Of a group that was left out: strict F1, and by reading raw scores with whether each is right; the same of the
    calibration lines."""

    f1: float
    unseen: dict[str, tuple[Floats, Any]]
    usual: dict[str, tuple[Floats, Any]]


def pairs(tagger: Tagger, lines: Sequence[MarkedLine]) -> dict[str, tuple[Floats, Any]]:
    found = tagger([line.text for line in lines])
    return {name: scores_and_hits(lines, found, hits) for name, hits in READINGS.items()}


def leave_out(sources: Sequence[str], lines: corpus.Corpus, epochs: int) -> LeftOut:
    kept = [line for line in lines.training if line.source not in sources]
    unseen = [line for line in lines.training if line.source in sources]
    usual = [line for line in lines.calibration if line.text not in {other.text for other in unseen}]
    origin = encoder.find()
    tokenizer = encoder.tokenizer(origin)
    config = replace(FitConfig(), epochs=epochs)
    model = encoder.token_classifier(origin, (*LABELS, *ASSERTIONS), seed=config.seed)
    with tempfile.TemporaryDirectory() as name, progress_bar() as progress:
        fit(model, kept, tokenizer, config, progress)
        export(model, Path(name) / "model.onnx", labels=len(LABELS))
        tagger = Tagger(Path(name) / "model.onnx", tokenizer, LABELS, max_pieces=256, overlap=64)
        f1 = score(unseen, tagger([line.text for line in unseen])).f1
        return LeftOut(f1, pairs(tagger, unseen), pairs(tagger, usual))


def pooled(found: Sequence[tuple[Floats, Any]]) -> Calibration:
    """Each group counts the same."""
    fits = [fit_calibration(raw, right) for raw, right in found]
    slope = float(np.mean([1 / one.temperature for one in fits]))
    return Calibration(round(1 / slope, 4), round(float(np.mean([one.bias for one in fits])), 4))


def toward_unseen(usual: Calibration, unseen: Calibration) -> Calibration:
    """Half way, in slope and bias, from the calibration of text that is like the training lines to that of text which
    is not: a site's text is neither."""
    slope = (1 / usual.temperature + 1 / unseen.temperature) / 2
    return Calibration(round(1 / slope, 6), round((usual.bias + unseen.bias) / 2, 6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    console = Console(width=120)
    lines = corpus.load()
    found = {}
    for name, sources in GROUPS.items():
        console.print(f"learning without {name}")
        found[name] = leave_out(sources, lines, options.epochs)
    table = Table("left out", "strict F1", "reading", "ECE raw", "usual calibration", "other groups' own", "both")
    for name, one in found.items():
        for reading in READINGS:
            raw, right = one.unseen[reading]
            usual = fit_calibration(*one.usual[reading])
            others = pooled([other.unseen[reading] for key, other in found.items() if key != name])
            errors = [
                expected_calibration_error(made(raw), right)
                for made in (Calibration(), usual, others, toward_unseen(usual, others))
            ]
            table.add_row(name, f"{one.f1:.3f}", reading, *(f"{error:.3f}" for error in errors))
    console.print(table)
    made = {reading: pooled([one.unseen[reading] for one in found.values()]) for reading in READINGS}
    console.print(made)


if __name__ == "__main__":
    main()
