"""Conversion to ONNX: believed only after both gave the same answers."""

import inspect
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file, save_file

from errors import SetupError
from training.convert_to_onnx import convert_pytorch_to_onnx, main, parity_windows
from training.deterioration.checkpoint import save_checkpoint
from training.deterioration.network import DeteriorationNetwork, NetworkShape


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = DeteriorationNetwork(NetworkShape(hidden=8, members=2))
    network.standardise_by(parity_windows(100, days=7))
    save_checkpoint(network, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_the_signature_is_the_one_of_the_specification() -> None:
    parameters = list(inspect.signature(convert_pytorch_to_onnx).parameters.values())
    positional = [each for each in parameters if each.kind is not each.KEYWORD_ONLY]

    assert [each.name for each in positional] == ["pytorch_model_path", "onnx_output_path", "input_shape"]
    assert positional[2].default == (1, 7, 4)


def test_the_converted_model_agrees_in_batches_of_any_size(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "net.onnx"

    report = convert_pytorch_to_onnx(str(checkpoint), str(target), timing_rounds=2)

    assert report.parity_error <= 1e-6
    assert report.windows == 1000
    assert report.speedup > 0
    session = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    for size in (1, 2, 63, 1024):
        assert session.run(None, {"window": parity_windows(size, days=7)})[0].shape == (size,)


def test_the_file_stands_alone_and_masks_gaps_itself(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "net.onnx"
    target.parent.mkdir()

    convert_pytorch_to_onnx(checkpoint, target, timing_rounds=1)

    assert [path.name for path in target.parent.iterdir()] == ["net.onnx"]
    graph = onnx.load(str(target)).graph
    assert [each.name for each in graph.input] == ["window"]
    assert [each.name for each in graph.output] == ["probability"]
    assert "IsNaN" in {node.op_type for node in graph.node}


def test_weights_only_pt_files_are_taken(checkpoint: Path, tmp_path: Path) -> None:
    shape = json.loads(checkpoint.with_suffix(".json").read_text())
    torch.save({"shape": shape, "weights": load_file(checkpoint)}, tmp_path / "net.pt")

    assert convert_pytorch_to_onnx(tmp_path / "net.pt", tmp_path / "net.onnx", timing_rounds=1).parity_error <= 1e-6


class _Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_pt_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"shape": {}, "weights": _Payload(tmp_path / "ran")}, tmp_path / "evil.pt")

    with pytest.raises(SetupError):
        convert_pytorch_to_onnx(tmp_path / "evil.pt", tmp_path / "net.onnx")

    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize("name", ["missing.safetensors", "missing.pt", "net.pickle", "net"])
def test_a_file_that_is_no_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError):
        convert_pytorch_to_onnx(tmp_path / name, tmp_path / "net.onnx")


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"not a checkpoint", b"\xff" * 64])
def test_garbage_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.json").write_text('{"features": 4, "hidden": 8, "members": 2}')
    for name in ("net.safetensors", "net.pt"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SetupError):
            convert_pytorch_to_onnx(tmp_path / name, tmp_path / "net.onnx")


def test_weights_of_another_shape_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    checkpoint.with_suffix(".json").write_text('{"features": 4, "hidden": 16, "members": 2}')

    with pytest.raises(SetupError):
        convert_pytorch_to_onnx(checkpoint, tmp_path / "net.onnx")


def test_a_network_whose_answers_are_not_numbers_is_not_kept(checkpoint: Path, tmp_path: Path) -> None:
    weights = load_file(checkpoint)
    weights["slope"] = torch.tensor(float("nan"))
    save_file(weights, checkpoint)

    with pytest.raises(SetupError, match="differ"):
        convert_pytorch_to_onnx(checkpoint, tmp_path / "net.onnx", timing_rounds=1)

    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize("shape", [(1, 7, 5), (0, 7, 4), (1, 7), (1, 7, 4, 1)])
def test_an_input_shape_the_network_cannot_take_is_refused(checkpoint: Path, tmp_path: Path, shape: Any) -> None:
    with pytest.raises(SetupError):
        convert_pytorch_to_onnx(checkpoint, tmp_path / "net.onnx", shape)


def test_the_parity_windows_range_from_complete_to_empty() -> None:
    share = np.isnan(parity_windows(1000, days=7)).mean(axis=(1, 2))

    assert share.min() == 0
    assert share.max() == 1
    assert len(set(share.tolist())) > 20


def test_the_command_says_what_it_did_or_what_is_wrong(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), str(tmp_path / "net.onnx")]) == 0
    assert "differs by at most" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing.pt"), str(tmp_path / "net.onnx")]) == 1
    assert "not a checkpoint" in capsys.readouterr().err
