"""Which provider a session runs on: CUDA where it is there and works, the CPU where it is not or does not."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from errors import SetupError
from runners.onnx_session import open_session


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = x + x"""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save_model(made, str(tmp_path / "model.onnx"))
    return tmp_path / "model.onnx"


def doubled(session: Any) -> list[float]:
    found: list[float] = session.run(None, {"x": np.array([1.5], np.float32)})[0].tolist()
    return found


def test_without_cuda_it_runs_on_the_cpu(model: Path) -> None:
    session = open_session(model)
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert doubled(session) == [3.0]


@pytest.mark.parametrize("works", [True, False])
def test_cuda_is_tried_first_and_the_cpu_takes_over_where_it_fails(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, works: bool
) -> None:
    """The one thing pretended is the GPU, which the machine lacks: that onnxruntime lists CUDA, and what it does."""
    real, asked = ort.InferenceSession, []

    def opened(path: str, options: Any, *, providers: list[str]) -> Any:
        asked.append(providers)
        if "CUDAExecutionProvider" in providers and not works:
            raise RuntimeError("libcuda.so.1: cannot open shared object file")
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", opened)
    assert doubled(open_session(model)) == [3.0]
    assert asked[0] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert asked[1:] == ([] if works else [["CPUExecutionProvider"]])
    assert ("runs on the CPU" in caplog.text) is not works


def test_a_file_that_is_no_model_is_refused_on_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(SetupError, match=r"junk\.onnx"):
        open_session(tmp_path / "junk.onnx")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(SetupError, match=r"junk\.onnx"):
        open_session(tmp_path / "junk.onnx")
