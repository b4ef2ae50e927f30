"""What is written down about a NER model: its contract with callers, where it came from, and its card."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any, Final, get_args

from tokenizers import Tokenizer

from clinical.assertion_head import AssertionHead
from clinical.entities import ENTITY_TYPES, LABELS, Assertion, Calibration, Use
from clinical.tokenizing import TokenizerForm
from registry import store
from registry.store import Manifest
from training import provenance
from training.ner.corpus import Corpus, statistics
from training.ner.encoder import DISTRIBUTION, WEIGHTS_SHA256
from training.ner.fit import FitConfig

NAME: Final = "clinical_ner"
KIND: Final = "clinical-ner"
LONGEST_TEXT: Final = 20_000
PACKAGES: Final = ("torch", "transformers", "tokenizers", "onnx", "onnxruntime", "numpy", DISTRIBUTION)
SCHEMA: Final = "https://json-schema.org/draft/2020-12/schema"
OWN_TOKENIZER: Final[Mapping[str, Any]] = {
    "file": "tokenizer.json",
    "kind": "wordpiece",
    "lowercase": True,
    "special": ["[CLS]", "[SEP]"],
}
SITE: Final = "site"
_ALWAYS: Final = ("SYMPTOM", "MEDICATION", "CONDITION")


def facts(corpus: Corpus, config: FitConfig, *, site_lines: int = 0, site_alone: bool = False) -> dict[str, Any]:
    """Where a model came from. The first `site_lines` lines of the training part are a site's own.

    Names of a site's files may name patients: its lines are counted as one source.
    """
    site = tuple(replace(line, source=SITE) for line in corpus.training[:site_lines])
    corpus = replace(corpus, training=(*site, *corpus.training[site_lines:]))
    origins = {"project": len(corpus.training) - site_lines, SITE: site_lines}
    parts = {"training": corpus.training, "calibration": corpus.calibration, "heldout": corpus.heldout}
    return {
        "corpus_sha256": corpus.sha256,
        "lines": {name: len(part) for name, part in parts.items()},
        "training_lines_of": origins,
        "site_alone": site_alone,
        "statistics": asdict(statistics(corpus.training)),
        "encoder": {"package": DISTRIBUTION, "sha256": WEIGHTS_SHA256},
        "seed": config.seed,
        "config": asdict(config),
        "packages": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "revision": provenance.revision(),
        "code_sha256": provenance.code_sha256(),
    }


def make_manifest(
    calibration: Calibration,
    metrics: dict[str, Any],
    training: dict[str, Any],
    *,
    max_pieces: int,
    overlap: int,
    labels: Sequence[str] = LABELS,
    assertion: AssertionHead | None = None,
    shorthand: float | None = None,
    codes: Mapping[str, str] | None = None,
    source: str | None = None,
    tokenizer: Mapping[str, Any] = OWN_TOKENIZER,
) -> Manifest:
    """The manifest of a model; `run` is filled in when it is done.

    `codes`: each vocabulary and where it came from. `source`: the name of a model that somebody else trained, and
    `tokenizer` what is told of its tokenizer.
    """
    return Manifest(
        name=NAME,
        version=store.new_version(),
        kind=KIND,
        task="token-classification",
        framework="onnxruntime",
        stage="candidate",
        preprocessing_version=f"{tokenizer['kind']}-1",
        input_schema=input_schema(),
        output_schema=output_schema(),
        cacheable=True,
        metrics=metrics,
        parameters={
            "labels": list(labels),
            "temperature": calibration.temperature,
            "bias": calibration.bias,
            "max_pieces": max_pieces,
            "overlap": overlap,
            "tokenizer": dict(tokenizer),
            "codes": dict(codes or {}),
            **({"assertion": assertion.parameters()} if assertion else {}),
            **({"shorthand": shorthand} if shorthand is not None else {}),
            **({"source": source} if source else {}),
            "graph": {"file": "model.onnx", "precision": metrics["served"]},
        },
        training=training,
    )


def tokenizer_facts(form: TokenizerForm, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a manifest tells of an imported model's tokenizer."""
    normalizer = json.loads(tokenizer.to_str())["normalizer"] or {}
    return {
        "file": OWN_TOKENIZER["file"],
        "kind": form.kind,
        "lowercase": bool(normalizer.get("lowercase", False)),
        "special": list(form.special),
    }


def input_schema() -> dict[str, Any]:
    """JSON Schema of `input_data`."""
    return {
        "$schema": SCHEMA,
        "type": "object",
        "properties": {
            "text": {"type": "string", "minLength": 1, "maxLength": LONGEST_TEXT},
            "normalize": {"type": "boolean", "default": False},
        },
        "required": ["text"],
        "additionalProperties": False,
    }


def output_schema() -> dict[str, Any]:
    """JSON Schema of `result`: three types always, the others where found."""
    fields = {
        "text": {"type": "string", "minLength": 1},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "start": {"type": "integer", "minimum": 0},
        "end": {"type": "integer", "minimum": 1},
        "assertion": {"enum": list(get_args(Assertion))},
    }
    code = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in ("system", "code", "name")},
        "required": ["system", "code", "name"],
        "additionalProperties": False,
    }
    entity = {
        "type": "object",
        "properties": {
            **fields,
            "use": {"enum": list(get_args(Use))},
            "codes": {"type": "array", "items": code},
        },  # where `normalize` was asked for
        "required": list(fields),
        "additionalProperties": False,
    }
    entities = {
        "type": "object",
        "properties": {kind: {"type": "array", "items": entity} for kind in ENTITY_TYPES},
        "required": list(_ALWAYS),
        "additionalProperties": False,
    }
    return {
        "$schema": SCHEMA,
        "type": "object",
        "properties": {
            "entities": entities,
            "language": {"type": "string"},  # "en", or the BCP 47 tag of what a text is surely written in instead
            "notice": {"type": "string"},  # where that is not English
            "source": {"type": "object"},  # of an imported model: its name, and which types its labels stand for
        },
        "required": ["entities"],
        "additionalProperties": False,
    }


def card(manifest: Manifest) -> str:
    """The model card in Markdown."""
    metrics, training = manifest.metrics, manifest.training
    strict, relaxed = metrics["f1_strict"], metrics["f1_relaxed"]
    rows = "\n".join(_row(kind, found) for kind, found in metrics["by_type"].items())
    return f"""# {manifest.name}

Finds {", ".join(kind.lower() for kind in ENTITY_TYPES)} in English notes and posts, with exact places, a
probability and an assertion (present, negated, possible, hypothetical, historical, family). For wellness monitoring: it
sorts words, it judges nobody's health. Its answers can be wrong; a person reads the text itself before acting on it.

## How good it is
On {metrics["lines"]} held-out lines ({strict["mentions"]} mentions) written apart from the training lines, by people
of this project, not real records: entity F1 **{strict["f1"]:.3f}** strict (95 % interval {strict["f1_low"]:.3f} to
{strict["f1_high"]:.3f}), {relaxed["f1"]:.3f} relaxed. Real notes differ; measure it on your own before relying on it.
{_scores(metrics)}
{_on_site(metrics)}
| type | strict F1 | 95 % interval | relaxed F1 | mentions |
|---|---|---|---|---|
{rows}

{_assertions(metrics)}
## What is served
{_served(metrics)}

## What it was made from
The encoder `{training["encoder"]["package"]}` (MiniLM, Apache-2.0; SHA-256 {training["encoder"]["sha256"]}),
fine-tuned on {_learnt_from(training)} (SHA-256 of the
corpus {training["corpus_sha256"]}). {_calibrated_on(training)}
Seed {training["seed"]}; code revision {training["revision"]}, SHA-256 {training["code_sha256"]}.

## What it cannot do
English only; an answer about a text that is surely in another language says so. It sees lines and the rows of simple
forms, but no columns of a page. Severity, anatomy and vague spoken phrases are its weakest types. Assertion is its
weakest side where a story tells what is over or planned without a word for it.
"""


def _scores(metrics: Mapping[str, Any]) -> str:
    said = f"""A score of 0.8 means right to the letter, type and both ends, in 8 of 10: expected calibration error
{metrics["ece"]:.3f}."""
    aside = metrics.get("edges_aside")
    if aside is None:
        return said
    return f"""{said} Right but for its edges is another probability, of the same odds by
sigmoid(odds / {aside["temperature"]:.3f} + {aside["bias"]:.3f}): expected calibration error {aside["ece"]:.3f}."""


def _assertions(metrics: Mapping[str, Any]) -> str:
    """How often the assertion of a marked mention is right."""
    found = metrics.get("assertion")
    if found is None:
        return ""
    ways = ("rules", "head", "together")
    rows = "\n".join(
        f"| {kind} | {found['together']['by_assertion'][kind]['mentions']} | "
        + " | ".join(_share(found[way]["by_assertion"][kind]) for way in ways)
        + " |"
        for kind in get_args(Assertion)
    )
    return f"""Assertion, on {found["mentions"]} marked mentions of the same lines. What is answered weighs rules and
the encoder's own opinion ("together"); 95 % intervals.

| truth | mentions | rules alone | encoder alone | together |
|---|---|---|---|---|
{rows}
| all | {found["mentions"]} | {" | ".join(_share(found[way]) for way in ways)} |
"""


def _share(found: Mapping[str, Any]) -> str:
    if found["right"] is None:
        return "none"
    return f"{found['right']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _learnt_from(training: Mapping[str, Any]) -> str:
    own, site = training["training_lines_of"]["project"], training["training_lines_of"][SITE]
    project = f"{own} lines written for this project, all people in them made up"
    if training["site_alone"]:
        return f"{site} lines of a site's own annotated notes and on nothing else"
    return f"{site} lines of a site's own annotated notes and {project}" if site else project


def _calibrated_on(training: Mapping[str, Any]) -> str:
    whose = " written for this project" if training["training_lines_of"][SITE] else ""
    return f"Scores calibrated on {training['lines']['calibration']} further lines{whose}."


def _on_site(metrics: Mapping[str, Any]) -> str:
    """The figure on the documents that a site kept, where there are any."""
    site = metrics.get("site", {})
    if "f1_strict" not in site:
        return ""
    strict, kept = site["f1_strict"], site["lines"]["kept"]
    return (
        f"\nOn {kept} lines of the site's notes, in documents that were not learnt from, over the types that the site "
        f"marks:\nF1 **{strict['f1']:.3f}** strict (95 % interval {strict['f1_low']:.3f} to {strict['f1_high']:.3f}).\n"
    )


def imported_facts(
    lines: Corpus, *, origin: str, weights_sha256: str | None, targets: Mapping[str, Any]
) -> dict[str, Any]:
    """Where an imported model came from, and what it was calibrated and judged on."""
    return {
        "origin": origin,
        "weights_sha256": weights_sha256,
        "labels": dict(targets),
        "corpus_sha256": lines.sha256,
        "packages": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES[:-1]}},
        "revision": provenance.revision(),
        "code_sha256": provenance.code_sha256(),
    }


def imported_card(manifest: Manifest) -> str:
    """The model card of a model that somebody else trained, in Markdown."""
    metrics, training = manifest.metrics, manifest.training
    strict = metrics["f1_strict"]
    stands_for = "\n".join(f"- {label}: {' or '.join(kinds)}" for label, kinds in training["labels"].items())
    rows = "\n".join(_row(kind, found) for kind, found in metrics["by_type"].items() if found["strict"]["mentions"])
    return f"""# {manifest.name}, imported: {training["origin"]}

A token classifier that was trained elsewhere; this project converted, calibrated and judged it. What it was made from
is for its makers to say. For wellness monitoring: it sorts words, it judges nobody's health.

## What its labels stand for here
{stands_for}

Where a label stands for two types, the mention's words choose, by how often they stand in either in this project's
corpus.

## How good it is on this project's held-out lines
Types that its labels do not stand for are left out. Entity F1 **{strict["f1"]:.3f}** strict (95 % interval
{strict["f1_low"]:.3f} to {strict["f1_high"]:.3f}), {metrics["f1_relaxed"]["f1"]:.3f} relaxed; expected calibration
error {metrics["ece"]:.3f}. {metrics["served"]} is served.

| type | strict F1 | 95 % interval | relaxed F1 | mentions |
|---|---|---|---|---|
{rows}

## Provenance
Weights SHA-256 {training["weights_sha256"]}; code revision {training["revision"]}.
"""


def _row(kind: str, found: Mapping[str, Any]) -> str:
    strict, relaxed = found["strict"], found["relaxed"]
    interval = f"{strict['f1_low']:.3f} to {strict['f1_high']:.3f}"
    return f"| {kind} | {strict['f1']:.3f} | {interval} | {relaxed['f1']:.3f} | {strict['mentions']} |"


def _served(metrics: Mapping[str, Any]) -> str:
    fp32, int8 = metrics["fp32"], metrics["int8"]
    lost = fp32["f1_strict"] - int8["f1_strict"]
    verdict = (
        "int8 is served"
        if metrics["served"] == "int8"
        else "fp32 is served, because int8 lost more than one point of F1"
    )
    return (
        f"{verdict}: {fp32['f1_strict']:.3f} fp32 against {int8['f1_strict']:.3f} int8 ({lost:+.3f} lost), "
        f"{fp32['megabytes']} MB against {int8['megabytes']} MB."
    )
