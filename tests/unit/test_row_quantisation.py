"""Int8 with a scale for each row: close to fp32, small, and the same answer whoever shares the batch."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from training.ner.row_quantisation import quantise

TABLE, DEPTH, WIDTH = 5000, 64, 48


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Words looked up in a table, times weights, twice from the same activation."""
    draw = np.random.default_rng(1)
    weights = {
        "table": draw.normal(0, 1, (TABLE, DEPTH)).astype(np.float32),
        "one": draw.normal(0, 0.1, (DEPTH, WIDTH)).astype(np.float32),
        "two": draw.normal(0, 0.1, (DEPTH, WIDTH)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("MatMul", ["words", "one"], ["left"]),
        helper.make_node("MatMul", ["words", "two"], ["right"]),
        helper.make_node("Add", ["left", "right"], ["sum"]),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "pieces"])
    total = helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["batch", "pieces", WIDTH])
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [ids], [total], tensors)
    folder = tmp_path_factory.mktemp("graphs")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / "fp32.onnx")
    quantise(folder / "fp32.onnx", folder / "int8.onnx")
    return folder / "fp32.onnx", folder / "int8.onnx"


def answers(path: Path, ids: list[list[int]]) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"ids": np.array(ids, dtype=np.int64)})[0]
    return found


def test_the_answer_is_nearly_that_of_fp32(graphs: tuple[Path, Path]) -> None:
    ids = np.random.default_rng(2).integers(0, TABLE, (4, 30)).tolist()
    fp32, int8 = (answers(path, ids) for path in graphs)
    assert int8.shape == fp32.shape
    assert np.abs(int8 - fp32).max() < 0.02 * np.abs(fp32).max()


def test_a_row_does_not_depend_on_its_neighbours(graphs: tuple[Path, Path]) -> None:
    alone = answers(graphs[1], [[7, 8, 9]])
    together = answers(graphs[1], [[7, 8, 9], [4000, 1, 2], [3, 3, 3]])
    assert (alone[0] == together[0]).all()


def test_the_graph_takes_a_third_of_the_room_at_most(graphs: tuple[Path, Path]) -> None:
    fp32, int8 = (path.stat().st_size for path in graphs)
    assert int8 < fp32 / 3
