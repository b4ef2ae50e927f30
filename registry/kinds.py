"""The kinds of models that this code can serve: what is registered and promoted must be one of them.

Declared here, where versions are signed for; bootstrap's runners, which serve them, are held against it by a test.
"""

from typing import Any, Final

from errors import SetupError

KINDS: Final = frozenset({"clinical-ner", "deterioration"})


def require_known_kind(kind: Any, tag: str) -> None:
    """Raises SetupError for a kind that no server of this version has a runner for."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise SetupError(f"{tag} is of a kind that no server has a runner for; known are {', '.join(sorted(KINDS))}.")
