"""From the fine-tuned encoder to ONNX files: and one text at a time back through it.

The graph takes int64[batch, pieces] `input_ids` and `attention_mask`, both free, and gives float32[batch, pieces,
labels] `logits`. Whether int8 is good enough is decided by who calls, on lines the model has not seen.
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

from clinical.entities import Calibration, Pieces, ScoredSpan, decode, join_windows, windows
from clinical.labelling import Floats, LabelScheme
from errors import SetupError

OPSET: Final = 17
INPUTS: Final = ("input_ids", "attention_mask")
OUTPUT: Final = "logits"
TOLERANCE: Final = 2e-3  # of a logit, between torch and onnxruntime
_SPECIAL: Final = 2  # [CLS] and [SEP] around every window


class _Graph(torch.nn.Module):
    """The model as the graph sees it: two tensors in, one out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def export(model: Any, path: Path) -> None:
    """Write the fp32 graph and compare it with torch. Raises SetupError when they disagree."""
    model.eval()
    model.set_attn_implementation("eager")  # plain matrix products, which every runtime can fuse and quantise
    sample = (torch.randint(model.config.vocab_size, (2, 9)), torch.ones(2, 9, dtype=torch.int64))
    sample[1][1, 5:] = 0
    graph = _Graph(model).eval()  # the exporter puts back the mode that it finds, dropout and all
    axes = {name: {0: "batch", 1: "pieces"} for name in (*INPUTS, OUTPUT)}
    with torch.inference_mode(), _exporter_is_quiet():
        torch.onnx.export(
            graph,
            sample,
            str(path),
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    _check(graph, path)


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
    for rows, length in ((1, 3), (3, 40), (2, min(512, int(config.max_position_embeddings)))):
        ids = torch.randint(config.vocab_size, (rows, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, length // 2 + 1 :] = 0
        with torch.inference_mode():
            wanted = graph(ids, mask).numpy()
        found = session.run([OUTPUT], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
        kept = mask.numpy().astype(bool)
        if np.abs(wanted - found)[kept].max() > TOLERANCE:
            raise SetupError("The ONNX graph does not give what the trained model gives. Nothing is saved.")


def open_session(path: Path, *, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Tagger:
    """A graph asked one text at a time, decoded as serving decodes: what evaluation judges."""

    def __init__(
        self, path: Path, tokenizer: Tokenizer, labels: Sequence[str], *, max_pieces: int, overlap: int
    ) -> None:
        self._session = open_session(path)
        self._tokenizer = tokenizer
        self._scheme = LabelScheme.of(labels)
        self._size = max_pieces - _SPECIAL
        self._overlap = overlap
        self._cls, self._sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")

    def __call__(self, texts: Sequence[str], calibration: Calibration | None = None) -> list[list[ScoredSpan]]:
        """The mentions of each text; raw scores where no calibration is given."""
        return [self._one(text, calibration or Calibration()) for text in texts]

    def _one(self, text: str, calibration: Calibration) -> list[ScoredSpan]:
        pieces = Pieces.of(text, self._tokenizer.encode(text, add_special_tokens=False))
        if not len(pieces):
            return []
        spans = windows(len(pieces), self._size, self._overlap)
        parts = [self._logits(pieces.ids[span.start : span.end]) for span in spans]
        return decode(text, pieces, join_windows(parts, spans), self._scheme, calibration)

    def _logits(self, ids: Any) -> Floats:
        row = np.concatenate([[self._cls], ids, [self._sep]]).astype(np.int64)[None]
        logits: Floats = self._session.run([OUTPUT], {"input_ids": row, "attention_mask": np.ones_like(row)})[0]
        return logits[0, 1:-1]

    def milliseconds(self, pieces: int, rounds: int = 15) -> float:
        """The median time for one row of `pieces` on one thread."""
        ids = np.full(pieces - _SPECIAL, 2000, dtype=np.int64)
        self._logits(ids)
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            self._logits(ids)
            times.append(time.perf_counter() - started)
        return round(float(np.median(times)) * 1000, 2)
