"""From the fine-tuned encoder to ONNX files: and one text at a time back through it.

The graph takes int64[batch, pieces] `input_ids` and `attention_mask`, both free, and gives float32[batch, pieces,
labels] `logits` and, where the model has a head for them, float32[batch, pieces, assertions] `assertions`. Whether int8
is good enough is decided by who calls, on lines the model has not seen.
"""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import torch
from tokenizers import Tokenizer
from torch.jit._trace import TracerWarning

from clinical.assertion_head import opinions
from clinical.entities import Calibration, Pieces, ScoredSpan, join_windows, windows
from clinical.labelling import Floats, LabelScheme
from clinical.markup import plain
from clinical.mentions import find
from clinical.note_structure import statements
from clinical.tokenizing import TokenizerForm
from errors import SetupError
from training.ner.corpus import Mention

OPSET: Final = 17
INPUTS: Final = ("input_ids", "attention_mask")
OUTPUTS: Final = ("logits", "assertions")
TOLERANCE: Final = 2e-3  # of a logit, between torch and onnxruntime
_SPECIAL: Final = 2  # opening and closing token around every window


class _Graph(torch.nn.Module):
    """The model as the graph sees it: two tensors in; one out, or two where its head judges assertions too."""

    def __init__(self, model: Any, labels: int | None) -> None:
        super().__init__()
        self.model = model
        self.labels = labels

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        both: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return (both,) if self.labels is None else (both[..., : self.labels], both[..., self.labels :])


def export(model: Any, path: Path, *, labels: int | None = None) -> None:
    """Write the fp32 graph and compare it with torch. Raises SetupError when they disagree.

    `labels`: how many of the head's columns are labels, where those behind them are assertions.
    """
    model.eval()
    model.set_attn_implementation("eager")  # plain matrix products, which every runtime can fuse and quantise
    sample = (torch.randint(model.config.vocab_size, (2, 9)), torch.ones(2, 9, dtype=torch.int64))
    sample[1][1, 5:] = 0
    graph = _Graph(model, labels).eval()  # the exporter puts back the mode that it finds, dropout and all
    outputs = OUTPUTS[:1] if labels is None else OUTPUTS
    axes = {name: {0: "batch", 1: "pieces"} for name in (*INPUTS, *outputs)}
    with torch.inference_mode(), _exporter_is_quiet():
        torch.onnx.export(
            graph,
            sample,
            str(path),
            input_names=list(INPUTS),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    _check(graph, path)


def most_pieces(model: Any) -> int:
    """How many pieces the model reads at once, special tokens included.

    RoBERTa counts positions from behind the padding's id, so that the first ones of its table are never used.
    """
    most = int(model.config.max_position_embeddings)
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            most = min(most, int(part.num_embeddings) - int(part.padding_idx) - 1)
    return most


@contextmanager
def _exporter_is_quiet() -> Iterator[None]:
    """torch says that this exporter is old and that shapes are traced; both are known and the result is checked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=TracerWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.onnx.*")
        yield


def _check(graph: _Graph, path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    session = open_session(path)
    config = graph.model.config
    most = min(512, most_pieces(graph.model))
    for rows, length in ((1, min(3, most)), (3, min(40, most)), (2, most)):
        ids = torch.randint(config.vocab_size, (rows, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, length // 2 + 1 :] = 0
        with torch.inference_mode():
            wanted = [one.numpy() for one in graph(ids, mask)]
        found = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        kept = mask.numpy().astype(bool)
        if any(np.abs(one - other)[kept].max() > TOLERANCE for one, other in zip(wanted, found, strict=True)):
            raise SetupError("The ONNX graph does not give what the trained model gives. Nothing is saved.")


def open_session(path: Path, *, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Tagger:
    """A graph asked one text at a time, decoded as serving decodes: what evaluation judges."""

    def __init__(
        self,
        path: Path,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        *,
        max_pieces: int,
        overlap: int,
        form: TokenizerForm | None = None,
    ) -> None:
        """`form`: what kind of tokenizer it is; BERT's where nothing is said."""
        self._session = open_session(path)
        self._tokenizer = tokenizer
        self._scheme = LabelScheme.of(labels)
        self._size = max_pieces - _SPECIAL
        self._overlap = overlap
        self._form = form or TokenizerForm()
        self._opening, self._closing = (tokenizer.token_to_id(token) for token in self._form.special[:2])

    def __call__(
        self, texts: Sequence[str], calibration: Calibration | None = None, shorthand: float | None = None
    ) -> list[list[ScoredSpan]]:
        """The mentions of each text; raw scores where no calibration is given.

        `shorthand` is how often the table of short forms is right; None leaves short forms to the model.
        """
        return [self._one(plain(text), calibration or Calibration(), shorthand) for text in texts]

    def _one(self, text: str, calibration: Calibration, shorthand: float | None) -> list[ScoredSpan]:
        pieces = self._form.pieces(text, self._tokenizer.encode(text, add_special_tokens=False))
        if not len(pieces):
            return []
        logits, parts = self._read(pieces)[0], statements(text)
        return find(text, pieces, logits, self._scheme, calibration, parts=parts, shorthand=shorthand)

    def opinions(self, text: str, places: Sequence[Mention | ScoredSpan]) -> Floats:
        """float32[mentions, assertions] log-probabilities of given mentions; see clinical.assertion_head."""
        pieces = self._form.pieces(text, self._tokenizer.encode(plain(text), add_special_tokens=False))
        return opinions(pieces, self._read(pieces)[1], places)

    def _read(self, pieces: Pieces) -> list[Floats]:
        """Each output of the graph for a whole text, float32[pieces, columns]."""
        spans = windows(len(pieces), self._size, self._overlap)
        parts = [self._outputs(pieces.ids[span.start : span.end]) for span in spans]
        return [join_windows(of_windows, spans) for of_windows in zip(*parts, strict=True)]

    def _outputs(self, ids: Any) -> list[Floats]:
        row = np.concatenate([[self._opening], ids, [self._closing]]).astype(np.int64)[None]
        return [
            output[0, 1:-1]
            for output in self._session.run(None, {"input_ids": row, "attention_mask": np.ones_like(row)})
        ]

    def milliseconds(self, pieces: int, rounds: int = 15) -> float:
        """The median time for one row of `pieces` on one thread."""
        ids = np.full(pieces - _SPECIAL, 2000, dtype=np.int64)
        self._outputs(ids)
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            self._outputs(ids)
            times.append(time.perf_counter() - started)
        return round(float(np.median(times)) * 1000, 2)
