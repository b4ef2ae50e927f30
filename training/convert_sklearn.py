"""A scikit-learn classifier behind the same ONNX interface as the network: float32[batch, 7, 4] in, probability out.

skl2onnx converts the classifier; what the baseline does to a window before (centre, scale, mark what is missing) is
written in front of it, so that serving prepares nothing. Inside it counts in float64, as scikit-learn does. Believed
only after the same gates as the network: at most 1e-6 between the two, and no window on another side of a threshold.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import DoubleTensorType

from clinical.vitals import FEATURES, WINDOW_DAYS
from errors import SetupError
from training.convert_to_onnx import INPUT, OPSET, OUTPUT, TOLERANCE, open_converted, parity_windows
from training.deterioration.baselines import FlatLogistic

_CELLS: Final = WINDOW_DAYS * len(FEATURES)
_GATE_WINDOWS: Final = 4000


def convert_sklearn_to_onnx(baseline: FlatLogistic, target: Path, *, threshold: float) -> dict[str, float]:
    """Write the ONNX file; gives parity_error and decisions_changed (0). Raises SetupError and leaves no file."""
    classifier = convert_sklearn(
        baseline.model,
        initial_types=[("features", DoubleTensorType([None, 2 * _CELLS]))],
        options={id(baseline.model): {"zipmap": False}},
        target_opset=OPSET,
    )
    classifier = onnx.compose.add_prefix(classifier, "classifier_")
    joined = onnx.compose.merge_models(
        _front(baseline, classifier),
        classifier,
        io_map=[("features", classifier.graph.input[0].name)],
        outputs=[classifier.graph.output[1].name],
    )
    joined.graph.name, joined.graph.doc_string = "window_to_probability", ""  # skl2onnx draws them at random
    _name_output(joined, classifier.graph.output[1].name)
    onnx.checker.check_model(joined, full_check=True)
    onnx.save_model(joined, str(target))
    windows = parity_windows(_GATE_WINDOWS, days=WINDOW_DAYS, seed=2)
    ours, theirs = baseline(windows), open_converted(target).run([OUTPUT], {INPUT: windows})[0]
    error = float(np.abs(ours - theirs).max())
    changed = int(((ours >= threshold) != (theirs >= threshold)).sum())
    if not error <= TOLERANCE or changed:
        target.unlink()
        raise SetupError(
            f"scikit-learn and ONNX differ by {error:.2g}, and {changed} decisions change; nothing was kept."
        )
    return {"parity_error": error, "decisions_changed": float(changed)}


def _front(baseline: FlatLogistic, classifier: Any) -> Any:
    """window -> float64[batch, 56]: standardised readings, 0 where missing, then the mask."""

    def constant(name: str, value: NDArray[Any]) -> Any:
        return numpy_helper.from_array(value, name)

    nodes = [
        helper.make_node("Reshape", [INPUT, "flat_shape"], ["single"]),
        helper.make_node("Cast", ["single"], ["flat"], to=TensorProto.DOUBLE),
        helper.make_node("IsNaN", ["flat"], ["missing"]),
        helper.make_node("Sub", ["flat", "centre"], ["centred"]),
        helper.make_node("Div", ["centred", "spread"], ["standard"]),
        helper.make_node("Where", ["missing", "zero", "standard"], ["known"]),
        helper.make_node("Cast", ["missing"], ["mask"], to=TensorProto.DOUBLE),
        helper.make_node("Concat", ["known", "mask"], ["features"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "front",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", WINDOW_DAYS, len(FEATURES)])],
        [helper.make_tensor_value_info("features", TensorProto.DOUBLE, ["batch", 2 * _CELLS])],
        [
            constant("flat_shape", np.array([-1, _CELLS], dtype=np.int64)),
            constant("centre", baseline.centre),
            constant("spread", baseline.spread),
            constant("zero", np.zeros((), dtype=np.float64)),
        ],
    )
    return helper.make_model(graph, opset_imports=classifier.opset_import, ir_version=classifier.ir_version)


def _name_output(model: Any, probabilities: str) -> None:
    """Of float32[batch, 2] keep the second column, as float32[batch] under the name that runners expect."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, dtype=np.int64), "positive"))
    model.graph.node.append(helper.make_node("Gather", [probabilities, "positive"], ["double_probability"], axis=1))
    model.graph.node.append(helper.make_node("Cast", ["double_probability"], [OUTPUT], to=TensorProto.FLOAT))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch"]))
