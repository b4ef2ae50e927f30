"""What a runner is: one loaded model version that turns parsed items into predictions, many at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer: `result` is JSON-able and fits the manifest's output schema; confidence is a probability or None."""

    result: dict[str, Any]
    confidence: float | None


class Runner(Protocol[Item]):
    """One loaded model version."""

    @property
    def rules(self) -> str:
        """Which rules of this code stand between the model's scores and the answer; recorded with it. May be empty."""
        ...

    def parse(self, input_data: Mapping[str, Any]) -> Item:
        """Check `input_data` and make an item of it. Cheap: runs on the event loop. Raises InvalidInput."""
        ...

    def canonical(self, item: Item) -> Any:
        """The item as JSON-able data, the same for inputs that mean the same: what the cache key is made of."""
        ...

    def cost(self, item: Item) -> int:
        """About how many tokens (or rows) the item is; batches are cut by this. Cheap."""
        ...

    def run(self, items: Sequence[Item]) -> Sequence[Prediction]:
        """Predict, one prediction for each item in order. CPU-bound: runs in a pool thread, several at once."""
        ...

    def explain(self, item: Item) -> dict[str, Any]:
        """How the answer to one item came about, JSON-able. CPU-bound and slower than `run`.

        Raises InvalidInput where this version or this item cannot be explained.
        """
        ...

    def warm_up(self) -> None:
        """Run a typical and a large item, so that the first caller doesn't pay for it."""
        ...
