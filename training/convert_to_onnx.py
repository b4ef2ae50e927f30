"""From a trained network to one ONNX file, believed only after both gave the same answers.

    python -m training.convert_to_onnx deterioration_lstm.safetensors deterioration_lstm.onnx

Parity is checked on 1,000 windows with many patterns of missing days and values, in batches of 1 to 64: at most 1e-6
(times the slope of a calibration that is steeper than 1, which multiplies the rounding of what it is given)
between torch and onnxruntime, and no window on another side of a threshold, else the file is removed and a SetupError
raised. Then both are timed on one thread.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from clinical.vitals import FEATURES
from errors import SetupError
from training.deterioration.checkpoint import load_checkpoint
from training.deterioration.network import DeteriorationNetwork

OPSET: Final = 17
TOLERANCE: Final = 1e-6
PARITY_WINDOWS: Final = 1000
INPUT: Final = "window"
OUTPUT: Final = "probability"
Windows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What the conversion was worth: largest difference in probability, and time for a batch of one on one thread."""

    parity_error: float
    decisions_changed: int
    windows: int
    torch_ms: float
    onnx_ms: float

    @property
    def speedup(self) -> float:
        """How many times as fast onnxruntime was."""
        return self.torch_ms / self.onnx_ms


def convert_pytorch_to_onnx(
    pytorch_model_path: str | Path,
    onnx_output_path: str | Path,
    input_shape: tuple[int, int, int] = (1, 7, 4),
    *,
    thresholds: Sequence[float] = (0.5,),
    timing_rounds: int = 200,
) -> ConversionReport:
    """Write one self-contained ONNX file with a free batch size and say how well it agrees with the network.

    `input_shape` is (batch, days, features) of the example that is traced. Raises SetupError for an unusable checkpoint
    or shape, or when the two disagree by more than 1e-6 or on a decision (a window at or above one of `thresholds`, the
    score in hundredths, as it is shown); then no file is left behind.
    """
    network, target = load_checkpoint(Path(pytorch_model_path)), Path(onnx_output_path)
    if len(input_shape) != 3 or input_shape[2] != network.shape.features or min(input_shape) < 1:
        raise SetupError(f"The network takes windows of (batch, days, {network.shape.features}).")
    _export(network, target, input_shape)
    session = open_converted(target)
    windows = parity_windows(PARITY_WINDOWS, days=input_shape[1])
    ours, theirs = (_in_batches(predict, windows) for predict in (network.predict, _of_session(session)))
    error = float(np.abs(ours - theirs).max()) if np.isfinite(theirs).all() else float("inf")
    changed = sum(int(((ours.round(2) >= at) != (theirs.round(2) >= at)).sum()) for at in thresholds)
    allowed = TOLERANCE * max(1.0, float(network.slope))
    if not error <= allowed or changed:
        target.unlink()
        raise SetupError(
            f"torch and ONNX differ by {error:.2g} (at most {allowed:.2g} is allowed), and {changed} decisions change; "
            "nothing was kept."
        )
    torch_ms, onnx_ms = _time_side_by_side(network, session, windows[:1], timing_rounds)
    return ConversionReport(error, changed, len(windows), torch_ms, onnx_ms)


def parity_windows(count: int, *, days: int, seed: int = 0) -> Windows:
    """float32[count, days, 4]: believable and extreme readings, from complete to almost nothing measured."""
    generator = np.random.default_rng(seed)
    low = np.array([feature.minimum for feature in FEATURES])
    high = np.array([feature.maximum for feature in FEATURES])
    values = low + (high - low) * generator.random((count, days, len(FEATURES)))
    edge = generator.random(values.shape)
    values = np.where(edge < 0.05, low, np.where(edge > 0.95, high, values))
    rate = generator.choice([0.0, 0.2, 0.5, 0.9], size=(count, 1, 1))
    missing = generator.random(values.shape) < rate
    missing |= generator.random((count, days, 1)) < rate / 2
    missing[generator.random(count) < 0.05] = True
    return np.where(missing, np.nan, values).astype(np.float32)


def _export(network: DeteriorationNetwork, target: Path, input_shape: tuple[int, int, int]) -> None:
    example = torch.from_numpy(parity_windows(input_shape[0], days=input_shape[1], seed=1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*legacy TorchScript-based ONNX export.*")
        warnings.filterwarnings("ignore", message="The feature will be removed", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*variable length with LSTM.*")
        # torch's own check of an LSTM's input shape; that other batch sizes work is what parity shows
        warnings.filterwarnings("ignore", message="Converting a tensor", module=r"torch\.nn\.modules\.rnn")
        torch.onnx.export(
            network,
            (example,),
            str(target),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(str(target), full_check=True)


def open_converted(path: Path) -> Any:
    """A session on one thread, to compare with."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _batches(windows: Windows) -> Iterator[Windows]:
    """Batches of 1, 2, … 64, 1, 2, … until all windows were in one."""
    at, size = 0, 1
    while at < len(windows):
        yield windows[at : at + size]
        at, size = at + size, size % 64 + 1


def _of_session(session: Any) -> Callable[[Windows], Windows]:
    return lambda batch: np.asarray(session.run([OUTPUT], {INPUT: batch})[0]).reshape(len(batch))


def _in_batches(predict: Callable[[Windows], Windows], windows: Windows) -> Windows:
    return np.concatenate([predict(batch) for batch in _batches(windows)])


def _time_side_by_side(
    network: DeteriorationNetwork, session: Any, window: Windows, rounds: int
) -> tuple[float, float]:
    """Median milliseconds of (torch eager, onnxruntime), one thread each, turn by turn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sides: list[Callable[[], object]] = [
            lambda: network.predict(window),
            lambda: session.run([OUTPUT], {INPUT: window}),
        ]
        taken: list[list[float]] = [[], []]
        for _ in range(rounds):
            for side, times in zip(sides, taken, strict=True):
                start = time.perf_counter()
                side()
                times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return float(np.median(taken[0]) * 1e3), float(np.median(taken[1]) * 1e3)


def main(arguments: list[str] | None = None) -> int:
    """Convert a checkpoint named on the command line."""
    parser = argparse.ArgumentParser(description="Convert a deterioration checkpoint to ONNX and check that it agrees.")
    parser.add_argument("pytorch_model_path", type=Path)
    parser.add_argument("onnx_output_path", type=Path)
    parsed = parser.parse_args(arguments)
    try:
        report = convert_pytorch_to_onnx(parsed.pytorch_model_path, parsed.onnx_output_path)
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(
        f"{parsed.onnx_output_path}: differs by at most {report.parity_error:.1e} on {report.windows} windows, "
        f"{report.decisions_changed} decisions change; "
        f"torch {report.torch_ms:.3f} ms, onnxruntime {report.onnx_ms:.3f} ms ({report.speedup:.1f} times)\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
