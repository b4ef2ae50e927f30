"""What a site's notes did to the project's own held-out figure: beside that of the version before.

Only versions that were judged on as many held-out lines are set side by side, and none that was imported: it is judged
over other types.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from errors import SetupError
from registry import store
from registry.store import StoredModel
from training.ner.manifest import NAME


@dataclass(frozen=True, slots=True)
class Before:
    """A version's strict F1 on so many of the project's held-out lines."""

    tag: str
    f1_strict: float
    lines: int

    @classmethod
    def of(cls, tag: str, metrics: Mapping[str, Any], training: Mapping[str, Any]) -> Self | None:
        """From a version's manifest; None where it was imported or tells no figure."""
        try:
            return None if "origin" in training else cls(tag, float(metrics["f1_strict"]["f1"]), int(metrics["lines"]))
        except (KeyError, TypeError, ValueError):
            return None

    def facts(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """For the run's record: empty where the two are not of the same lines."""
        return {"compared_with": asdict(self)} if metrics["lines"] == self.lines else {}


def newest() -> Before | None:
    """The newest version in the model store that can be compared with."""
    try:
        stored = store.versions(NAME)
    except SetupError:  # one that cannot be opened is no reason not to train another
        return None
    found = (Before.of(one.tag, one.manifest.metrics, one.manifest.training) for one in reversed(stored))
    return next((one for one in found if one is not None), None)


def effect(stored: StoredModel) -> str:
    """One line: the held-out F1, and what it was before where that is known."""
    made = stored.manifest
    notes = "with the site's notes alone" if made.training["site_alone"] else "with the site's notes"
    figure = f"{made.metrics['f1_strict']['f1']:.3f} {notes}"
    other = made.run.get("compared_with")
    if other is None:
        return f"held-out F1 {figure}"
    return f"held-out F1 {other['f1_strict']:.3f} -> {figure} (before: {other['tag']})"
