"""A training run's state on disk, so that one that was interrupted goes on where it was and ends as it would have.

The file's name says what it belongs to: data, settings, code. It is gone when the run is done.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from training.provenance import code_sha256


def usual_folder() -> Path:
    """Where the commands keep runs that are not done."""
    return Path(os.environ.get("FOLLOWUP_HOME", ".followup")) / "training"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Where a run keeps its state; None keeps nothing."""

    path: Path | None = None

    @classmethod
    def of(cls, folder: Path | None, **decisive: Any) -> Self:
        """The place for the run that `decisive` (JSON-able: data, settings) and the present code decide."""
        if folder is None:
            return cls()
        told = json.dumps([code_sha256(), torch.__version__, decisive], sort_keys=True, default=str)
        return cls(folder / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.pt")

    def load(self) -> dict[str, Any] | None:
        """The state that was kept, or None. One that cannot be read is as good as none."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:  # torch raises whatever its parsers raise; nothing is run, so nothing is lost but time
            return None
        return state

    def keep(self, state: dict[str, Any]) -> None:
        """Write the state whole or not at all."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.path)

    def done(self) -> None:
        """The run is over: nothing to go on with."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
