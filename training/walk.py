"""What both fits have in common: the mean of the weights over a walk's last part, and a walk that can be taken up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.unfinished import Unfinished


class WeightAverage:
    """The mean of the weights over the last steps: steadier than where the walk ends (Izmailov et al. 2018)."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self._weights = weights
        self._mean: list[torch.Tensor] = []
        self._seen = 0

    @torch.no_grad()
    def add(self) -> None:
        """Count the weights as they are now."""
        self._seen += 1
        if self._mean:
            torch._foreach_lerp_(self._mean, list(self._weights), 1 / self._seen)
        else:
            self._mean = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def apply(self) -> None:
        """Put the mean in place of the weights, where anything was counted."""
        for weight, mean in zip(self._weights, self._mean, strict=bool(self._mean)):
            weight.copy_(mean)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean, self._seen = state["mean"], state["seen"]


@dataclass(frozen=True, slots=True)
class Walk:
    """Everything that changes while a network is fitted; torch's random numbers are kept too."""

    network: torch.nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    average: WeightAverage

    def keep(self, unfinished: Unfinished, done: int) -> None:
        """Keep the state after `done` epochs."""
        if unfinished.path is not None:
            parts = {name: part.state_dict() for name, part in self._parts().items()}
            unfinished.keep({"done": done, "random": torch.random.get_rng_state(), **parts})

    def take_up(self, unfinished: Unfinished) -> int:
        """Go back to the state that was kept, if any, and say how many epochs are done."""
        state = unfinished.load()
        if state is None:
            return 0
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        torch.random.set_rng_state(state["random"])
        return int(state["done"])

    def _parts(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
            "average": self.average,
        }
