"""Serve a token classifier that somebody else trained: a local folder, or a model hub's id where a hub can be reached.

    followup train ner import --from PATH_OR_HUB_ID

Reads weights only (safetensors, or a .bin without code in it), a fast tokenizer like BERT's or RoBERTa's and the labels
of `config.json`: BIO, IO, BIOES, BILOU or plain types. Labels problem, treatment and test are mapped by themselves;
others by --label; what `LABEL_n` says only --label can tell. Scores are calibrated and the model is judged on this
project's lines, over the types that its labels stand for.
"""

import hashlib
import json
import re
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer

from clinical.entities import ENTITY_TYPES, ScoredSpan
from clinical.label_mapping import LabelMapping, words_of
from clinical.labelling import LabelScheme
from clinical.tokenizing import BYTE_LEVEL, SENTENCEPIECE, WORDPIECE, TokenizerForm
from errors import SetupError
from registry import store
from registry.store import Manifest, StoredModel
from training.ner import corpus
from training.ner import manifest as ner_manifest
from training.ner.corpus import MarkedLine
from training.ner.evaluation import fit_calibration, report, scores_and_hits
from training.ner.export import Tagger, export, most_pieces
from training.ner.row_quantisation import quantise
from training.progress import Progress, silent
from training.provenance import cost_since

USUAL_TARGETS: Final[Mapping[str, tuple[str, ...]]] = {
    "problem": ("SYMPTOM", "CONDITION"),
    "treatment": ("MEDICATION", "PROCEDURE"),
    "test": ("TEST",),
}
_MAPPING_FILE: Final = "label_mapping.json"
_INT8_MAY_LOSE: Final = 0.01
_OVERLAP: Final = 64
_MOST_PIECES: Final = 256
_LEAST_PIECES: Final = 32
_NUMBERED: Final = re.compile(r"LABEL_\d+")
_LABEL: Final = re.compile(rf"O|[BIESLU]-({'|'.join(ENTITY_TYPES)})")
_KINDS: Final = {"BertPreTokenizer": WORDPIECE, "ByteLevel": BYTE_LEVEL, "Metaspace": SENTENCEPIECE}
# Accents whole and as marks of their own, signs of several bytes, two blanks, a line break, a sign at a word's end.
_PROBE: Final = ("Zoë", " had", " nai\u0308ve", "  pain", " 🩺", " and", "\ncafé", ",", " 5mg")


def import_model(
    origin: str, labels: Mapping[str, Sequence[str]] | None = None, progress: Progress = silent
) -> StoredModel:
    """Convert, calibrate, judge and save. Raises SetupError when the model cannot be used."""
    with tempfile.TemporaryDirectory() as name:
        manifest = make_model(Path(name), origin, labels or {}, progress)
        return store.save(manifest, Path(name))


def targets(pairs: Sequence[str]) -> dict[str, list[str]]:
    """`THEIRS=OURS` or `THEIRS=OURS,OURS` pairs; for `LABEL_n` also `O`, `B-OURS` and the like. Raises SetupError."""
    found = {}
    for pair in pairs:
        theirs, equals, ours = pair.partition("=")
        kinds = [kind for kind in ours.split(",") if kind]
        if _NUMBERED.fullmatch(theirs) and _LABEL.fullmatch(ours):
            found[theirs] = [ours]
            continue
        if not theirs or not equals or not kinds or not set(kinds) <= set(ENTITY_TYPES):
            raise SetupError(f"A label is mapped as THEIRS=OURS[,OURS], with OURS of {', '.join(ENTITY_TYPES)}.")
        found[theirs] = kinds
    return found


def make_model(folder: Path, origin: str, labels: Mapping[str, Sequence[str]], progress: Progress = silent) -> Manifest:
    """Write a model's files into `folder` and return its manifest. Raises as `import_model` does."""
    started = time.monotonic()
    progress("reading the model", 0, 1)
    model, tokenizer, form = _load(origin)
    size = min(most_pieces(model), _MOST_PIECES)
    if size < _LEAST_PIECES:
        raise SetupError(f"The model reads {size} pieces at once; at least {_LEAST_PIECES} are needed.")
    overlap = min(_OVERLAP, size // 4)
    theirs = _told([str(model.config.id2label[index]) for index in range(model.config.num_labels)], labels)
    scheme = _scheme(theirs)
    chosen = {**USUAL_TARGETS, **labels}
    unmapped = [kind for kind in scheme.types if kind not in chosen and kind not in ENTITY_TYPES]
    if unmapped:
        raise SetupError(f"Labels that are mapped to nothing: {', '.join(unmapped)}. Map each: --label THEIRS=OURS")
    lines = corpus.load()
    votes = _votes(lines.training)
    mapping = LabelMapping({kind: list(chosen.get(kind, (kind,))) for kind in scheme.types}, votes)
    with tempfile.TemporaryDirectory() as name:
        progress("exporting", 0, 1)
        fp32, int8 = Path(name) / "fp32.onnx", Path(name) / "int8.onnx"
        export(model, fp32)
        quantise(fp32, int8)
        progress("judging on held-out lines", 0, 1)
        candidates = {
            path.stem: _Judged(
                Tagger(path, tokenizer, theirs, max_pieces=size, overlap=overlap, form=form), mapping, lines
            )
            for path in (fp32, int8)
        }
        lost = candidates["fp32"].f1 - candidates["int8"].f1
        served = "int8" if lost <= _INT8_MAY_LOSE else "fp32"
        (Path(name) / f"{served}.onnx").rename(folder / "model.onnx")
    tokenizer.save(str(folder / "tokenizer.json"))
    stored = {"targets": mapping.targets, "votes": votes}
    (folder / _MAPPING_FILE).write_text(json.dumps(stored, ensure_ascii=False, sort_keys=True), encoding="utf-8")
    found = candidates[served]
    metrics = found.report | {"served": served} | {name: {"f1_strict": each.f1} for name, each in candidates.items()}
    source = Path(origin).name
    facts = ner_manifest.imported_facts(
        lines, origin=source, weights_sha256=_weights_sha256(Path(origin)), targets=mapping.targets
    )
    manifest = ner_manifest.make_manifest(
        found.calibration,
        metrics,
        facts,
        max_pieces=size,
        overlap=overlap,
        labels=theirs,
        source=source,
        tokenizer=ner_manifest.tokenizer_facts(form, tokenizer),
    )
    (folder / "model_card.md").write_text(ner_manifest.imported_card(manifest), encoding="utf-8")
    return replace(manifest, run=cost_since(started))


def _weights_sha256(folder: Path) -> str | None:
    """Of the first weights file of a local folder."""
    files = sorted(file for file in folder.glob("*") if file.suffix in {".safetensors", ".bin"})
    return hashlib.sha256(files[0].read_bytes()).hexdigest() if files else None


def _load(origin: str) -> tuple[Any, Tokenizer, TokenizerForm]:
    from transformers import AutoModelForTokenClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    local = Path(origin).is_dir()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model = AutoModelForTokenClassification.from_pretrained(
                origin, local_files_only=local, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(origin, local_files_only=local, trust_remote_code=False)
    except Exception as error:  # every library underneath raises its own; none of them may end in a traceback
        where = "The folder" if local else "The model hub cannot be reached, or its model"
        raise SetupError(
            f"{where} holds no token classifier with weights, a config.json and a fast tokenizer "
            f"({type(error).__name__})."
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise SetupError("The model's tokenizer is none of the fast ones, which say where a piece stands.")
    made: Tokenizer = Tokenizer.from_str(backend.to_str())
    made.no_truncation()
    made.no_padding()
    return model.eval(), made, _form(tokenizer, made)


def _form(tokenizer: Any, made: Tokenizer) -> TokenizerForm:
    """What kind of tokenizer it is, believed only after a text came back in whole words. Raises SetupError."""
    special = [str(getattr(tokenizer, f"{name}_token", None)) for name in ("cls", "sep", "pad", "mask")]
    kind = _kind(made)
    if not kind or any(made.token_to_id(token) is None for token in special):
        raise SetupError(
            "The model's tokenizer is not of the BERT kind ([CLS], [SEP], [PAD], [MASK]) nor of the RoBERTa kind "
            "(<s>, </s>, <pad>, <mask>)."
        )
    opening, closing, padding, mask = special
    form = TokenizerForm(opening, closing, padding, mask, kind)
    text, around = "".join(_PROBE), made.encode("pain").tokens
    pieces = form.pieces(text, made.encode(text, add_special_tokens=False))
    ends = pieces.ends[np.append(pieces.word_first[1:], len(pieces)) - 1].tolist()
    words = list(zip(pieces.starts[pieces.word_first].tolist(), ends, strict=True))
    stops = list(accumulate(len(word) for word in _PROBE))
    wanted = [(stop - len(word.strip()), stop) for word, stop in zip(_PROBE, stops, strict=True)]
    if words != wanted or (around[0], around[-1]) != (opening, closing):
        raise SetupError("The model's tokenizer does not keep words whole, so that places of mentions would be wrong.")
    return form


def _kind(tokenizer: Tokenizer) -> str | None:
    """By how it parts words, the last step where there are several."""
    parting = json.loads(tokenizer.to_str())["pre_tokenizer"] or {}
    last = (parting.get("pretokenizers") or [parting])[-1]
    return _KINDS.get(str(last.get("type")))


def _told(theirs: Sequence[str], labels: Mapping[str, Sequence[str]]) -> list[str]:
    """The labels with what was said of each LABEL_n in its place; LABEL_0 is outside unless something else is said."""
    if not any(_NUMBERED.fullmatch(label) for label in theirs):
        return list(theirs)
    said = {"LABEL_0": ["O"], **labels} if ["O"] not in labels.values() else labels
    unsaid = [label for label in theirs if _NUMBERED.fullmatch(label) and label not in said]
    if unsaid:
        raise SetupError(
            f"The model does not name its labels: say what {', '.join(unsaid)} mean, each as --label LABEL_1=SYMPTOM, "
            "--label LABEL_1=B-SYMPTOM or, for what is outside, --label LABEL_0=O."
        )
    return [said[label][0] if _LABEL.fullmatch(said.get(label, [""])[0]) else label for label in theirs]


def _scheme(labels: Sequence[str]) -> LabelScheme:
    try:
        return LabelScheme.of(labels)
    except ValueError as error:
        raise SetupError(
            f"The model's labels are not O with B-… and I-… of each type, nor IO, BIOES, BILOU or plain types: {error}."
        ) from error


def _votes(lines: Sequence[MarkedLine]) -> dict[str, dict[str, int]]:
    votes: dict[str, Counter[str]] = {kind: Counter() for kind in ENTITY_TYPES}
    for line in lines:
        for mention in line.mentions:
            votes[mention.type].update(words_of(line.text[mention.start : mention.end]))
    return {kind: dict(sorted(counts.items())) for kind, counts in votes.items()}


class _Judged:
    """A graph's calibration and figures on this project's lines, over the types its labels are mapped to."""

    def __init__(self, tagger: Tagger, mapping: LabelMapping, lines: corpus.Corpus) -> None:
        kinds = {kind for targets in mapping.targets.values() for kind in targets}

        def own(part: Sequence[MarkedLine]) -> list[MarkedLine]:
            return [replace(line, mentions=tuple(m for m in line.mentions if m.type in kinds)) for line in part]

        def mapped(part: Sequence[MarkedLine], found: Sequence[Sequence[ScoredSpan]]) -> list[list[ScoredSpan]]:
            return [
                [replace(span, type=mapping.type_of(span.type, line.text[span.start : span.end])) for span in spans]
                for line, spans in zip(part, found, strict=True)
            ]

        calibration, heldout = own(lines.calibration), own(lines.heldout)
        raw = mapped(calibration, tagger([line.text for line in calibration]))
        self.calibration = fit_calibration(*scores_and_hits(calibration, raw))
        found = mapped(heldout, tagger([line.text for line in heldout], self.calibration))
        self.report = report(heldout, found)
        self.f1 = float(self.report["f1_strict"]["f1"])
