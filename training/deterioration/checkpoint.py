"""A trained network on disk: safetensors with a JSON file of its shape beside it. Nothing is ever unpickled."""

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from errors import SetupError
from training.deterioration.network import DeteriorationNetwork, NetworkShape


def save_checkpoint(network: DeteriorationNetwork, path: Path) -> None:
    """Write `path` (.safetensors) and the network's shape beside it (.json)."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, str(path))
    shape = json.dumps(asdict(network.shape), indent=2, sort_keys=True)
    path.with_suffix(".json").write_text(f"{shape}\n", encoding="utf-8")


def load_checkpoint(path: Path) -> DeteriorationNetwork:
    """A network from `.safetensors` with its `.json`, or from a `.pt` of {"shape": {…}, "weights": {…}}.

    Raises SetupError when a file is missing, is not such a checkpoint, or would run code when loaded.
    """
    try:
        if path.suffix == ".safetensors":
            shape: Any = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            weights: Any = load_file(str(path))
        elif path.suffix == ".pt":
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Detected pickle protocol")  # refused all the same
                stored = torch.load(path, map_location="cpu", weights_only=True)
            shape, weights = stored["shape"], stored["weights"]
        else:
            raise SetupError("A checkpoint is a .safetensors file, or a .pt file of weights only.")
        network = DeteriorationNetwork(NetworkShape.of(shape))
        network.load_state_dict(weights)
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        SafetensorError,
        UnpicklingError,
    ) as error:
        raise SetupError(f"{path.name} is not a checkpoint of this network, or a file of it is missing.") from error
    return network.eval()
