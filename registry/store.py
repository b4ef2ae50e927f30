"""Models in the BentoML store: saved with a manifest, opened only by explicit version and with their digest checked.

A model is a folder of plain files (ONNX, safetensors, JSON, Markdown; nothing that is unpickled) with a `manifest.json`
that says what a runner must know. The digest covers every file but BentoML's own model.yaml, which holds what differs
between two runs that made the same model: version, time of making, minutes. The same seed, data, code and machine give
the same digest.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Self

import bentoml
from bentoml.exceptions import BentoMLException, NotFound

from errors import SetupError

Stage = Literal["experimental", "candidate"]

MANIFEST: Final = "manifest.json"
REPORT_FILE: Final = "evaluation.html"
ALLOWED_SUFFIXES: Final = frozenset({".onnx", ".safetensors", ".json", ".md", ".html", ".txt", ".npy"})
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_NOT_DIGESTED = frozenset({"model.yaml"})
_OF_A_VERSION = frozenset({"version", "created_at", "run"})


@dataclass(frozen=True, slots=True)
class Manifest:
    """What serving must know of a model, and what a person asks first."""

    name: str
    version: str
    kind: str  # which runner serves it: "clinical-ner" or "deterioration"
    task: str  # the field's term: "token-classification", "binary-classification"
    framework: str  # "onnxruntime"
    stage: Stage
    preprocessing_version: str
    input_schema: dict[str, Any]  # JSON Schema (2020-12) of `input_data`
    output_schema: dict[str, Any]  # JSON Schema of `result`
    cacheable: bool  # False where computing is faster than looking up
    metrics: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)  # what the runner needs: labels, temperature, …
    training: dict[str, Any] = field(default_factory=dict)  # data hash, seed, code revision, package versions
    created_by: str = "training"
    # not in manifest.json, so not in the digest: what two runs that make the same model differ in
    created_at: str = ""
    run: dict[str, Any] = field(default_factory=dict)  # minutes, peak_memory_mib, milliseconds

    @classmethod
    def read(cls, folder: Path, **of_this_version: Any) -> Self:
        """The manifest of a model's folder, with what is not written there.

        Raises SetupError when it is missing or has another form.
        """
        try:
            written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            return cls(**{"version": "", **written, **of_this_version})
        except (OSError, ValueError, TypeError) as error:
            raise SetupError(f"The model in {folder} has no readable {MANIFEST}.") from error


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One version in the store, its files and its digest (SHA-256, hex)."""

    manifest: Manifest
    path: Path
    digest: str

    @property
    def tag(self) -> str:
        return f"{self.manifest.name}:{self.manifest.version}"


def digest_of(folder: Path) -> str:
    """SHA-256 over the sorted relative paths and contents of all files of a model."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_file() and relative not in _NOT_DIGESTED:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{content}  {relative}\n".encode())
    return total.hexdigest()


def new_version(at: datetime | None = None) -> str:
    """A version that sorts by time and is a valid BentoML tag: 20261122t221530z."""
    return (at or datetime.now(UTC)).strftime("%Y%m%dt%H%M%Sz")


def save(manifest: Manifest, files: Path, *, labels: Mapping[str, str] | None = None) -> StoredModel:
    """Copy the folder `files` and its manifest into the store as `name:version`.

    Raises SetupError for a name or a file type that serving would refuse.
    """
    if not _NAME.fullmatch(manifest.name):
        raise SetupError("A model's name is lower-case letters, digits and underscores.")
    refused = [path.name for path in files.rglob("*") if path.is_file() and path.suffix not in ALLOWED_SUFFIXES]
    if refused:
        raise SetupError(f"Only {', '.join(sorted(ALLOWED_SUFFIXES))} are stored; refused: {', '.join(refused)}")
    written = {name: value for name, value in asdict(manifest).items() if name not in _OF_A_VERSION}
    text = json.dumps(written, indent=2, sort_keys=True, allow_nan=False)
    all_labels = {"kind": manifest.kind, "task": manifest.task, "stage": manifest.stage, **(labels or {})}
    with bentoml.models.create(
        f"{manifest.name}:{manifest.version}",
        module="onnxruntime",
        labels=all_labels,
        metadata={
            "metrics": manifest.metrics,
            "training": manifest.training,
            "run": manifest.run,
            **({"report": REPORT_FILE} if (files / REPORT_FILE).is_file() else {}),
        },
    ) as reference:
        shutil.copytree(files, reference.path, dirs_exist_ok=True)
        Path(reference.path_of(MANIFEST)).write_text(text + "\n", encoding="utf-8")
    return get(manifest.name, manifest.version)


def get(name: str, version: str, *, expected_digest: str | None = None) -> StoredModel:
    """Open one version. Raises SetupError when it is not there or its files are not those that were registered."""
    try:
        stored = _opened(bentoml.models.get(f"{name}:{version}"))
    except (NotFound, BentoMLException) as error:
        raise SetupError(f"The model store has no {name}:{version}.") from error
    if expected_digest is not None and stored.digest != expected_digest:
        raise SetupError(f"{stored.tag} is not what was registered: its digest differs. It is not loaded.")
    return stored


def _opened(model: bentoml.Model) -> StoredModel:
    path, info = Path(model.path), model.info
    manifest = Manifest.read(
        path,
        version=info.tag.version,
        created_at=info.creation_time.isoformat(timespec="seconds"),
        run=info.metadata.get("run", {}),
    )
    return StoredModel(manifest, path, digest_of(path))


def versions(name: str | None = None) -> Sequence[StoredModel]:
    """All versions of our models in the store, oldest first; other tenants of the store are left out."""
    found = []
    try:
        models = bentoml.models.list(name)
    except NotFound:
        return []
    for model in models:
        if (Path(model.path) / MANIFEST).is_file():
            found.append(_opened(model))
    return sorted(found, key=lambda stored: (stored.manifest.name, stored.manifest.version))
