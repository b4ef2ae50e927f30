"""From the labels of a model that somebody else trained to this project's types.

Where one label stands for two types (`problem` is a symptom or a condition), the mention's words vote: each by how
often it stands in mentions of either type in the project's own corpus (naive Bayes with add-one smoothing).
"""

import re
from collections.abc import Mapping, Sequence
from math import log
from typing import Any, Final, Self

_WORDS: Final = re.compile(r"[^\W\d_]+")


def words_of(text: str) -> list[str]:
    """The words that vote, in lower case."""
    return _WORDS.findall(text.casefold())


class LabelMapping:
    """Which types a label may stand for, and the votes that choose between them."""

    def __init__(self, targets: Mapping[str, Sequence[str]], votes: Mapping[str, Mapping[str, int]]) -> None:
        """`votes`: for each type how often each word stands in its mentions."""
        self.targets = targets
        self._votes = votes
        vocabulary = len({word for counts in votes.values() for word in counts})
        self._totals = {kind: sum(counts.values()) + vocabulary for kind, counts in votes.items()}

    @classmethod
    def of(cls, stored: Any) -> Self:
        """From `{"targets": …, "votes": …}`. Raises ValueError when it has another form."""
        try:
            targets = {str(label): [str(kind) for kind in kinds] for label, kinds in stored["targets"].items()}
            votes = {
                str(kind): {str(word): int(count) for word, count in counts.items()}
                for kind, counts in stored["votes"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a label mapping") from error
        if not all(kinds for kinds in targets.values()):
            raise ValueError("a label stands for nothing")
        return cls(targets, votes)

    def type_of(self, label: str, text: str) -> str:
        """The project's type for a mention that the model gave `label`; a label that is not mapped stays."""
        kinds = self.targets.get(label, (label,))
        return kinds[0] if len(kinds) == 1 else max(kinds, key=lambda kind: self._support(kind, text))

    def _support(self, kind: str, text: str) -> float:
        counts, total = self._votes.get(kind, {}), self._totals.get(kind, 1)
        return sum(log((counts.get(word, 0) + 1) / total) for word in words_of(text))
