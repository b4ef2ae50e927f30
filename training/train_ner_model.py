"""Train the clinical NER model and put it into the model store.

    python -m training.train_ner_model
    python -m training.train_ner_model --seed 5 --epochs 8 --json

Fine-tunes a MiniLM encoder from a pip package on the corpus in training/corpus, calibrates its scores on lines of their
own, judges it on lines that nothing else sees, exports ONNX, and serves int8 where that costs at most one point of F1.
The network is never reached. Some minutes on two cores.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from clinical.assertion_head import AssertionHead
from clinical.entities import ASSERTIONS, LABELS, Calibration, ScoredSpan
from errors import SetupError
from registry import store
from registry.store import Manifest, StoredModel
from training.ner import code_sources, corpus, encoder
from training.ner import manifest as ner_manifest
from training.ner import report as ner_report
from training.ner.assertions import assertion_report, fit_head
from training.ner.before import Before
from training.ner.corpus import Corpus, MarkedLine
from training.ner.evaluation import (
    expected_calibration_error,
    fit_calibration,
    relaxed_hits,
    report,
    scores_and_hits,
    shorthand_precision,
    site_report,
)
from training.ner.export import Tagger, export
from training.ner.fit import FitConfig, fit
from training.ner.row_quantisation import quantise
from training.ner.site_corpus import SiteCorpus
from training.progress import Progress, progress_bar, silent
from training.provenance import cost_since
from training.unfinished import Unfinished, usual_folder

MODEL_FILE: Final = "model.onnx"
TOKENIZER_FILE: Final = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class NerConfig:
    """Everything that decides what model comes out of a given corpus."""

    fit: FitConfig = field(default_factory=FitConfig)
    # what is read
    corpus: Path = corpus.CORPUS
    site: SiteCorpus | None = None  # a site's own notes, learnt from first, so that the project's boundaries win
    site_alone: bool = False  # learn from the site's notes only
    before: Before | None = None  # the version whose held-out figure this one's is set beside
    lines_at_most: int | None = None  # of each part; for trying things out
    codes: bool = field(default_factory=code_sources.available)  # whether `normalize` can be asked for
    unfinished: Path | None = None  # a folder in which an interrupted run is kept
    # how serving reads long texts
    max_pieces: int = 256
    overlap: int = 64
    # int8 is served when it loses at most this much strict F1
    int8_may_lose: float = 0.01


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A graph that may be served, its calibration and its figures."""

    path: Path
    calibration: Calibration
    shorthand: float
    report: dict[str, Any]
    facts: dict[str, Any]
    timing: dict[str, float]
    found: list[list[ScoredSpan]]  # in the held-out lines
    head: AssertionHead | None
    site: dict[str, Any] = field(default_factory=dict)


def train(config: NerConfig | None = None, progress: Progress = silent) -> StoredModel:
    """Train, calibrate, judge, export and save. Raises SetupError when the corpus or the encoder cannot be used."""
    with tempfile.TemporaryDirectory() as name:
        manifest = make_model(Path(name), config or NerConfig(), progress)
        return store.save(manifest, Path(name))


def make_model(folder: Path, config: NerConfig, progress: Progress = silent) -> Manifest:
    """Write a model's files into `folder` and return its manifest. Raises as `train` does."""
    started = time.monotonic()
    progress("reading the corpus", 0, 1)
    lines = _shortened(_with_site(corpus.load(config.corpus), config), config.lines_at_most)
    origin = encoder.find()
    tokenizer = encoder.tokenizer(origin)
    model = encoder.token_classifier(origin, (*LABELS, *ASSERTIONS), seed=config.fit.seed)
    decisive = {"corpus": lines.sha256, "lines": config.lines_at_most, "fit": asdict(config.fit)}
    unfinished = Unfinished.of(config.unfinished, **decisive)
    fit(model, lines.training, tokenizer, config.fit, progress, unfinished=unfinished)
    with tempfile.TemporaryDirectory() as name:
        progress("exporting", 0, 1)
        fp32, int8 = Path(name) / "fp32.onnx", Path(name) / "int8.onnx"
        export(model, fp32, labels=len(LABELS))
        quantise(fp32, int8)
        tokenizer.save(str(folder / TOKENIZER_FILE))
        progress("judging on held-out lines", 0, 1)
        candidates = [
            _judge(
                path,
                Tagger(path, tokenizer, LABELS, max_pieces=config.max_pieces, overlap=config.overlap),
                lines,
                config.site,
            )
            for path in (fp32, int8)
        ]
        chosen = _choose(*candidates, may_lose=config.int8_may_lose)
        chosen.path.rename(folder / MODEL_FILE)
    metrics = chosen.report | {
        "served": chosen.path.stem,
        **({"site": chosen.site} if config.site else {}),
        **{candidate.path.stem: candidate.facts for candidate in candidates},
    }
    site_lines = min(len(config.site.training), len(lines.training)) if config.site else 0
    facts = ner_manifest.facts(lines, config.fit, site_lines=site_lines, site_alone=config.site_alone)
    manifest = ner_manifest.make_manifest(
        chosen.calibration,
        metrics,
        facts,
        max_pieces=config.max_pieces,
        overlap=config.overlap,
        assertion=chosen.head,
        shorthand=chosen.shorthand,
        codes=_write_codes(folder, progress) if config.codes else {},
    )
    (folder / "model_card.md").write_text(ner_manifest.card(manifest), encoding="utf-8")
    report_page = ner_report.page(manifest.name, metrics, lines.heldout, chosen.found)
    (folder / store.REPORT_FILE).write_text(report_page, encoding="utf-8")
    text = json.dumps(metrics, indent=2, sort_keys=True, allow_nan=False)
    (folder / "metrics.json").write_text(f"{text}\n", encoding="utf-8")
    timing = {candidate.path.stem: candidate.timing for candidate in candidates}
    compared = config.before.facts(metrics) if config.before else {}  # beside the digest: it is not of this model
    return replace(manifest, run=cost_since(started) | timing | compared)


def _write_codes(folder: Path, progress: Progress) -> dict[str, str]:
    progress("making the tables of codes", 0, 1)
    tables = code_sources.tables()
    text = json.dumps(tables, separators=(",", ":"), ensure_ascii=False)
    (folder / code_sources.FILE).write_text(text, encoding="utf-8")
    sources: dict[str, str] = tables["sources"]
    return sources


def _with_site(lines: Corpus, config: NerConfig) -> Corpus:
    if config.site is None:
        return lines
    training = config.site.training if config.site_alone else (*config.site.training, *lines.training)
    both = hashlib.sha256(f"{config.site.sha256} {lines.sha256} {config.site_alone}".encode()).hexdigest()
    return replace(lines, training=training, sha256=both)


def _shortened(lines: Corpus, most: int | None) -> Corpus:
    if most is None:
        return lines
    return replace(
        lines, training=lines.training[:most], calibration=lines.calibration[:most], heldout=lines.heldout[:most]
    )


def _judge(path: Path, tagger: Tagger, lines: Corpus, site: SiteCorpus | None) -> _Candidate:
    """Calibrate and weigh on the calibration lines, then measure on the held-out ones, and on those a site keeps."""
    unscaled = tagger(_texts(lines.calibration))
    calibration = fit_calibration(*scores_and_hits(lines.calibration, unscaled))
    edges_aside = fit_calibration(*scores_and_hits(lines.calibration, unscaled, relaxed_hits))
    shorthand = shorthand_precision((*lines.training, *lines.calibration))
    spans = tagger(_texts(lines.heldout), calibration, shorthand)
    found = report(lines.heldout, spans)
    head = fit_head(lines.training, lines.calibration, tagger.opinions)
    if head is not None:
        found["assertion"] = assertion_report(lines.heldout, tagger.opinions, head)
    unscaled = tagger(_texts(lines.heldout))
    raw = report(lines.heldout, unscaled)
    scores, right = scores_and_hits(lines.heldout, unscaled, relaxed_hits)
    found["edges_aside"] = asdict(edges_aside) | {"ece": expected_calibration_error(edges_aside(scores), right)}
    facts = {
        "f1_strict": found["f1_strict"]["f1"],
        "f1_relaxed": found["f1_relaxed"]["f1"],
        "ece": found["ece"],
        "ece_uncalibrated": raw["ece"],
        "f1_strict_without_shorthand": report(lines.heldout, tagger(_texts(lines.heldout), calibration))["f1_strict"][
            "f1"
        ],
        "by_type": found["by_type"],
        "megabytes": round(path.stat().st_size / 1e6, 1),
    }
    timing = {"ms_12_pieces": tagger.milliseconds(12), "ms_300_pieces": tagger.milliseconds(300)}
    own = {} if site is None else site_report(site, tagger(_texts(site.kept), calibration, shorthand))
    return _Candidate(path, calibration, shorthand, found, facts, timing, spans, head, own)


def _choose(fp32: _Candidate, int8: _Candidate, *, may_lose: float) -> _Candidate:
    lost: float = fp32.facts["f1_strict"] - int8.facts["f1_strict"]
    return int8 if lost <= may_lose else fp32


def _texts(lines: Sequence[MarkedLine]) -> list[str]:
    return [line.text for line in lines]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train on the project's corpus and print what was saved."""
    parser = argparse.ArgumentParser(description="Train the clinical NER model and put it into the model store.")
    parser.add_argument("--seed", type=int, default=FitConfig().seed)
    parser.add_argument("--epochs", type=int, default=FitConfig().epochs)
    parser.add_argument("--json", action="store_true", help="print tag, digest and metrics as JSON")
    parsed = parser.parse_args(arguments)
    try:
        with progress_bar() as progress:
            settings = FitConfig(seed=parsed.seed, epochs=parsed.epochs)
            stored = train(NerConfig(fit=settings, unfinished=usual_folder()), progress)
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    metrics = stored.manifest.metrics
    strict = metrics["f1_strict"]
    interval = f"{strict['f1_low']:.3f} to {strict['f1_high']:.3f}"
    said = f"{stored.tag}\nheld-out entity F1 {strict['f1']:.3f} ({interval}), {metrics['served']}"
    found = {"tag": stored.tag, "digest": stored.digest, "metrics": metrics}
    sys.stdout.write((json.dumps(found) if parsed.json else said) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
