"""The NER runner: from a text to its entities, by type, each with its place, its probability and its assertion.

Refuses what is not a text of 1 to 20,000 code points, and never repeats it. Offsets are code points of the original
text. Texts longer than the model reads at once are read in overlapping windows; windows of like length share a
batch, because padding a short one to a long one's length costs more than running them apart.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer

from clinical import wellness
from clinical.assertion_head import AssertionHead, opinions
from clinical.codes import CodeBook
from clinical.entities import (
    ENTITY_TYPES,
    Calibration,
    Entity,
    Pieces,
    Span,
    join_windows,
    occlusion,
    windows,
)
from clinical.label_mapping import LabelMapping
from clinical.labelling import Floats, LabelScheme
from clinical.language import not_english
from clinical.markup import plain
from clinical.medication_use import rule_on, use_under
from clinical.mentions import find
from clinical.note_structure import statements
from clinical.tokenizing import TokenizerForm
from errors import FieldFault, InvalidInput, SetupError
from runners.onnx_session import open_session
from runners.runner import Prediction

# What this code makes of a model's scores, by the text of the code: under other rules an old answer is not given again.
_RULE_FILES: Final = (
    *("abbreviations", "assertion", "assertion_head", "assertion_scope", "assertion_triggers", "entities", "labelling"),
    *("language", "markup", "medication_use", "mention_edges", "mentions", "note_answers", "note_headings"),
    *("note_structure", "shorthand", "tokenizing"),
)
RULES: Final = hashlib.sha256(
    b"".join(Path(wellness.__file__).with_name(f"{name}.py").read_bytes() for name in _RULE_FILES)
).hexdigest()[:12]
MODEL_FILE: Final = "model.onnx"
TOKENIZER_FILE: Final = "tokenizer.json"
CODES_FILE: Final = "codes.json"
MAPPING_FILE: Final = "label_mapping.json"  # where somebody else's labels are served
LONGEST_TEXT: Final = 20_000
ALWAYS_SHOWN: Final = ("SYMPTOM", "MEDICATION", "CONDITION")
BATCH_PIECES: Final = 1024  # padded; more does not run faster on a core
LONGEST_EXPLAINED: Final = 100  # words: the model reads the text once without each
_WORDS_SHOWN: Final = 5
_SPECIAL: Final = 2  # opening and closing token around every window
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# Signs, line breaks and letters of other scripts are a piece each.
_PIECES: Final = re.compile(r"[A-Za-z0-9]{1,4}|[^A-Za-z0-9\s]|\n")
_SHORT_NOTE: Final = "Patient has fever and cough"


@dataclass(frozen=True, slots=True)
class Note:
    """A text, and whether codes are wanted for what is found in it."""

    text: str = field(repr=False)
    normalize: bool = False


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch of one text's pieces: which text, which of its windows, and the pieces' ids."""

    item: int
    place: int
    ids: np.ndarray[Any, np.dtype[np.int64]]


class NerRunner:
    """One version of the clinical NER model, behind the `Runner` protocol."""

    def __init__(self, folder: Path, parameters: Mapping[str, Any], *, intra_op_threads: int = 1) -> None:
        """Open the model in `folder`; `parameters` are the manifest's. Raises SetupError when either is unusable."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the pool's threads are the parallelism
        try:
            self._scheme = LabelScheme.of(parameters["labels"])
            self._calibration = Calibration(float(parameters["temperature"]), float(parameters.get("bias", 0.0)))
            self._size = int(parameters["max_pieces"]) - _SPECIAL
            self._overlap = int(parameters["overlap"])
            self._form = TokenizerForm.of(parameters.get("tokenizer"))
            self._shorthand = float(parameters["shorthand"]) if "shorthand" in parameters else None
            self._head = AssertionHead.of(parameters["assertion"]) if "assertion" in parameters else None
        except (KeyError, TypeError, ValueError) as error:
            raise SetupError("The model's parameters lack its labels, temperature, max_pieces or overlap.") from error
        if not 0 <= self._overlap < self._size or self._calibration.temperature <= 0:
            raise SetupError("The model's windows or its temperature make no sense.")
        self._tokenizer = _open_tokenizer(folder / TOKENIZER_FILE)
        self._special = _ids_of(self._tokenizer, self._form)
        self._mapping = _open_mapping(folder / MAPPING_FILE) if (folder / MAPPING_FILE).exists() else None
        self._source = parameters.get("source")
        self._codes = _open_codes(folder / CODES_FILE) if (folder / CODES_FILE).exists() else None
        self._session = open_session(folder / MODEL_FILE, intra_op_threads=intra_op_threads)
        self._outputs = [output.name for output in self._session.get_outputs()]
        if self._head is not None and len(self._outputs) < 2:
            raise SetupError("The model's parameters tell of assertions, and its graph gives none.")

    @property
    def rules(self) -> str:
        return RULES

    def parse(self, input_data: Mapping[str, Any]) -> Note:
        """`{"text": …, "normalize": false}` to a note. Raises InvalidInput."""
        if not isinstance(input_data, Mapping) or not {"text"} <= input_data.keys() <= {"text", "normalize"}:
            fault = FieldFault("", "needs: text; may have: normalize")
            raise InvalidInput("The input must have a text, and at most normalize beside it.", [fault])
        text, normalize = input_data["text"], input_data.get("normalize", False)
        rule = _broken_rule(text)
        if rule is not None:
            raise InvalidInput("The text cannot be read.", [FieldFault("/text", rule)])
        if not isinstance(normalize, bool):
            raise InvalidInput("normalize is yes or no.", [FieldFault("/normalize", "must be true or false")])
        if normalize and self._codes is None:
            fault = FieldFault("/normalize", "this version has no vocabularies")
            raise InvalidInput("This version of the model gives no codes.", [fault])
        return Note(str(text), normalize)

    def canonical(self, item: Note) -> Any:
        """The text itself: where it differs, offsets may."""
        return {"text": item.text, "normalize": True} if item.normalize else item.text

    def cost(self, item: Note) -> int:
        """About how many word pieces the text has, special tokens included."""
        return len(_PIECES.findall(item.text)) + _SPECIAL

    def run(self, items: Sequence[Note]) -> Sequence[Prediction]:
        """Find and judge the entities of each text, in order."""
        texts = [plain(item.text) for item in items]
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        pieces = [self._form.pieces(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]
        spans = [windows(len(one), self._size, self._overlap) for one in pieces]
        read = self._read(pieces, spans)
        return [
            self._predict(item, text, one, [join_windows(parts, where) for parts in zip(*outputs, strict=True)])
            for item, text, one, outputs, where in zip(items, texts, pieces, read, spans, strict=True)
        ]

    def explain(self, item: Note) -> dict[str, Any]:
        """For each entity the words that change its score most when they are hidden; see `occlusion`."""
        text = plain(item.text)
        pieces = self._form.pieces(text, self._tokenizer.encode(text, add_special_tokens=False))
        words = len(pieces.word_first)
        if words > LONGEST_EXPLAINED or len(pieces) > self._size:
            fault = FieldFault("/explain", f"is for texts of at most {LONGEST_EXPLAINED} words and {self._size} pieces")
            raise InvalidInput("The text is too long to be explained.", [fault])
        stops = np.append(pieces.word_first, len(pieces))
        hidden = [pieces.ids.copy() for _ in range(words)]
        for ids, start, stop in zip(hidden, stops[:-1], stops[1:], strict=True):
            ids[start:stop] = self._special[3]
        read = [_Window(0, place, ids) for place, ids in enumerate([pieces.ids, *hidden])]
        size = max(1, BATCH_PIECES // (len(pieces) + _SPECIAL))
        answers = [
            row
            for at in range(0, len(read), size)
            for row in self._run_batch(read[at : at + size])[0][:, 1 : len(pieces) + 1]
        ]
        found = occlusion(text, pieces, answers, self._scheme, self._calibration)
        return {
            "method": "word occlusion",
            "entities": [
                {"type": span.type, "start": span.start, "end": span.end, "words": _weightiest(deltas, pieces)}
                for span, deltas in found
            ],
            "notice": wellness.EXPLANATION,
        }

    def warm_up(self) -> None:
        """One short note, and one that needs several windows."""
        self.run([Note(_SHORT_NOTE)])
        self.run([Note(" ".join([_SHORT_NOTE + "."] * (self._size // 4)))])

    def _read(self, pieces: Sequence[Pieces], spans: Sequence[Sequence[Span]]) -> list[list[list[Floats]]]:
        """For each text and each of its windows the outputs, float32[pieces, columns]."""
        nothing = [np.empty((0, 0), dtype=np.float32)] * len(self._outputs)
        answers = [[nothing] * len(where) for where in spans]
        waiting = [
            _Window(item, place, one.ids[span.start : span.end])
            for item, (one, where) in enumerate(zip(pieces, spans, strict=True))
            for place, span in enumerate(where)
            if span.end > span.start
        ]
        for batch in _batches(waiting):
            outputs = self._run_batch(batch)
            for row, window in enumerate(batch):
                answers[window.item][window.place] = [output[row, 1 : len(window.ids) + 1] for output in outputs]
        return answers

    def _run_batch(self, batch: Sequence[_Window]) -> list[Floats]:
        opening, closing, padding, _ = self._special
        longest = max(len(window.ids) for window in batch) + _SPECIAL
        ids = np.full((len(batch), longest), padding, dtype=np.int64)
        mask = np.zeros((len(batch), longest), dtype=np.int64)
        for row, window in enumerate(batch):
            end = len(window.ids) + 1
            ids[row, 0], ids[row, 1:end], ids[row, end] = opening, window.ids, closing
            mask[row, : end + 1] = 1
        outputs: list[Floats] = self._session.run(self._outputs, {"input_ids": ids, "attention_mask": mask})
        return outputs

    def _predict(self, item: Note, read: str, pieces: Pieces, outputs: Sequence[Floats]) -> Prediction:
        """`read` is what the model was given: the text without its markup, place by place."""
        text, parts = item.text, statements(read)
        found = find(read, pieces, outputs[0], self._scheme, self._calibration, parts=parts, shorthand=self._shorthand)
        if self._mapping is not None:
            kinds = [self._mapping.type_of(span.type, text[span.start : span.end]) for span in found]
            found = [replace(span, type=kind) for span, kind in zip(found, kinds, strict=True)]
        uses, ruled = rule_on(read, parts, found)
        said = [ruling.assertion for ruling in ruled]
        if self._head is not None:
            said = self._head.together(found, opinions(pieces, outputs[1], found), ruled)
        entities = [
            Entity(
                span.type,
                text[span.start : span.end],
                span.start,
                span.end,
                span.score,
                assertion,
                use if use is None or assertion == ruling.assertion else use_under(assertion),
            )
            for span, assertion, ruling, use in zip(found, said, ruled, uses, strict=True)
        ]
        confidence = round(sum(entity.score for entity in entities) / len(entities), 4) if entities else None
        result: dict[str, Any] = {"entities": _by_type(entities, self._codes if item.normalize else None)}
        if self._mapping is not None:
            result["source"] = {"model": self._source, "labels": self._mapping.targets}
        other = not_english(read)
        result |= {"language": "en"} if other is None else {"language": other, "notice": wellness.NOT_ENGLISH}
        return Prediction(result, confidence)


def _weightiest(deltas: Floats, pieces: Pieces) -> list[dict[str, Any]]:
    """The words whose hiding changes the score most, each with its place and what it adds."""
    ends = pieces.ends[np.append(pieces.word_first[1:], len(pieces)) - 1]
    order = np.argsort(-np.abs(deltas), kind="stable")[:_WORDS_SHOWN]
    return [
        {
            "start": int(pieces.starts[pieces.word_first[word]]),
            "end": int(ends[word]),
            "delta": round(float(deltas[word]), 4),
        }
        for word in order
    ]


def _by_type(entities: Sequence[Entity], codes: CodeBook | None) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {kind: [] for kind in ALWAYS_SHOWN}
    for entity in sorted(entities, key=lambda one: ENTITY_TYPES.index(one.type) if one.type in ENTITY_TYPES else 99):
        grouped.setdefault(entity.type, []).append(
            {
                "text": entity.text,
                "score": round(entity.score, 2),
                "start": entity.start,
                "end": entity.end,
                "assertion": entity.assertion,
                **({} if entity.use is None else {"use": entity.use}),
                **({} if codes is None else {"codes": [asdict(code) for code in codes.find(entity.type, entity.text)]}),
            }
        )
    return grouped


def _batches(waiting: Sequence[_Window]) -> list[list[_Window]]:
    """Windows of like length together: at most BATCH_PIECES padded, and never more than a third of it padding."""
    cut: list[list[_Window]] = []
    for window in sorted(waiting, key=lambda one: len(one.ids)):
        length = len(window.ids) + _SPECIAL
        last = cut[-1] if cut else []
        shortest = len(last[0].ids) + _SPECIAL if last else 0
        if not last or (len(last) + 1) * length > BATCH_PIECES or length > shortest * 1.5:
            cut.append([])
        cut[-1].append(window)
    return cut


def _broken_rule(text: Any) -> str | None:
    if not isinstance(text, str):
        return "must be a string"
    if not 1 <= len(text) <= LONGEST_TEXT:
        return f"must have 1 to {LONGEST_TEXT} characters"
    if text.isspace():
        return "must not be blank"
    if "\x00" in text:
        return "must not hold a NUL character"
    if not text.isascii() and _SURROGATE.search(text):
        return "must not hold half of a surrogate pair"
    return None


def _open_codes(path: Path) -> CodeBook:
    try:
        return CodeBook.of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SetupError(f"{path.name} cannot be read as a table of codes.") from error


def _open_mapping(path: Path) -> LabelMapping:
    try:
        return LabelMapping.of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SetupError(f"{path.name} cannot be read as a label mapping.") from error


def _open_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises bare Exception
        raise SetupError(f"{path.name} cannot be opened as a tokenizer.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _ids_of(tokenizer: Tokenizer, form: TokenizerForm) -> tuple[int, ...]:
    ids = [tokenizer.token_to_id(token) for token in form.special]
    found = tuple(number for number in ids if number is not None)
    if len(found) < len(ids):
        raise SetupError(f"The tokenizer lacks one of the special tokens {', '.join(form.special)}.")
    return found
