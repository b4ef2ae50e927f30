"""Versions from the store, looked at before they are opened: a store is a folder, and anything may lie in it.

A pipe among the files would be waited for, for ever; a link or a device leads out of the folder; a manifest of another
form fails far from where it is read.
"""

import math
import os
import stat
from pathlib import Path
from typing import Any, Final

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer

from errors import SetupError
from registry import store
from registry.store import StoredModel

_DEEPEST: Final = 64
_LONGEST_WORD: Final = 255
_WORDS: Final = ("name", "version", "kind", "task", "framework", "stage", "preprocessing_version", "created_by")
_OBJECTS: Final = ("input_schema", "output_schema", "metrics", "parameters", "training", "run")
_STAGES: Final = frozenset({"experimental", "candidate"})


def folder_of(name: str, version: str) -> Path:
    """The folder of exactly this version. Raises SetupError where there is none, or more in it than plain files."""
    missing = SetupError(f"The model store has no {name}:{version}.")
    try:
        folder = Path(BentoMLContainer.model_store_dir.get(), bentoml.Tag(name, version).path())
        if not version or not stat.S_ISDIR(folder.lstat().st_mode):
            raise missing
        odd = _odd_entry(folder)
    except SetupError:
        raise
    except Exception as error:  # no folder, a name that is none, or one that may not be read
        raise missing from error
    if odd is not None:
        raise SetupError(f"{name}:{version} holds something that is no plain file: {odd!r}. It is not opened.")
    return folder


def get(name: str, version: str, *, expected_digest: str | None = None) -> StoredModel:
    """Open one version.

    Raises SetupError when it is not there, holds more than plain files, its manifest has another form, or its files are
    not those that were registered.
    """
    folder_of(name, version)
    try:
        stored = store.get(name, version, expected_digest=expected_digest)
    except SetupError:
        raise
    except Exception as error:  # whatever the parsers of two formats raise for what was written by hand
        raise SetupError(f"{name}:{version} cannot be opened ({type(error).__name__}).") from error
    require_form(stored)
    if (stored.manifest.name, stored.manifest.version) != (name, version):
        raise SetupError(f"The manifest of {name}:{version} is that of another model.")
    return stored


def require_form(stored: StoredModel) -> None:
    """Raises SetupError for a manifest whose values are not what the catalog and a runner can take."""
    manifest = stored.manifest
    fault = None
    for word in _WORDS:
        value = getattr(manifest, word)
        if not isinstance(value, str) or len(value) > _LONGEST_WORD or not value.isprintable():
            fault = fault or f"{word} is no word"
    for part in _OBJECTS:
        value = getattr(manifest, part)
        if not isinstance(value, dict) or not _can_be_kept(value):
            fault = fault or f"{part} is no object that can be kept"
    if fault is None and manifest.stage not in _STAGES:
        fault = "its stage is none"
    if fault is None and type(manifest.cacheable) is not bool:
        fault = "cacheable is neither true nor false"
    if fault is None and type(manifest.metrics.get("beats_baselines", False)) is not bool:
        fault = "beats_baselines is neither true nor false"
    if fault is not None:
        raise SetupError(f"The manifest of the model in {stored.path.name} has another form: {fault}.")


def _odd_entry(folder: Path) -> str | None:
    """What is in it, at any depth, and neither a plain file nor a folder; links are not followed."""
    folders = [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    folders.append(Path(entry.path))
                elif not stat.S_ISREG(mode):
                    return Path(entry.path).relative_to(folder).as_posix()
    return None


def _can_be_kept(value: Any) -> bool:
    """Whether the database takes it as JSON: not too deep, numbers that are finite, texts without NUL and halves."""
    waiting = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > _DEEPEST:
            return False
        if isinstance(part, dict):
            waiting += [(name, depth + 1) for name in part] + [(inner, depth + 1) for inner in part.values()]
        elif isinstance(part, list | tuple):
            waiting += [(inner, depth + 1) for inner in part]
        elif isinstance(part, str):
            if "\x00" in part or any("\ud800" <= sign <= "\udfff" for sign in part):
                return False
        elif isinstance(part, float) and not math.isfinite(part):
            return False
    return True
