"""The deterioration network: a small LSTM that takes raw readings, gaps and all, and gives a calibrated probability.

Everything between a reading and the probability is part of the graph (mask of what is missing, standardisation,
calibration), so that serving cannot prepare its input otherwise than training did.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clinical.vitals import FEATURES
from errors import SetupError


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What a checkpoint's weights fit into."""

    features: int = len(FEATURES)
    hidden: int = 32
    members: int = 4

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """From a JSON object. Raises SetupError when it has other fields."""
        try:
            return cls(**{name: int(value) for name, value in values.items()})
        except (TypeError, ValueError) as error:
            raise SetupError("The network's configuration has unknown or missing fields.") from error


class Member(nn.Module):
    """One LSTM and its read-out: prepared readings float32[batch, 7, 12] to logits float32[batch]."""

    def __init__(self, shape: NetworkShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(3 * shape.features, shape.hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.read_out = nn.Linear(shape.hidden, 1)

    def forward(self, steps: Tensor) -> Tensor:
        states, _ = self.recurrent(steps)
        logits: Tensor = self.read_out(self.dropout(states[:, -1])).squeeze(-1)
        return logits


class DeteriorationNetwork(nn.Module):
    """float32[batch, 7, 4] with NaN where not measured, to the probability float32[batch] of a decline within 3 days.

    The members' logits are averaged, then calibrated as `slope * logit + intercept` (Platt).
    """

    mean: Tensor
    scale: Tensor
    slope: Tensor
    intercept: Tensor

    def __init__(self, shape: NetworkShape | None = None, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape or NetworkShape()
        self.members = nn.ModuleList(Member(self.shape, dropout) for _ in range(self.shape.members))
        self.register_buffer("mean", torch.zeros(self.shape.features))
        self.register_buffer("scale", torch.ones(self.shape.features))
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("intercept", torch.zeros(()))

    def standardise_by(self, values: NDArray[Any]) -> None:
        """Take the constants from training windows float32[n, 7, 4], over what was measured."""
        flat = torch.from_numpy(values).reshape(-1, self.shape.features).double()
        known = ~flat.isnan()
        count = known.sum(0).clamp(min=1)
        mean = flat.nan_to_num(0.0).sum(0) / count
        spread = (((flat - mean).nan_to_num(0.0) ** 2).sum(0) / count).sqrt()
        self.mean.copy_(mean)
        self.scale.copy_(spread.clamp(min=1e-3))

    def prepare(self, window: Tensor) -> Tensor:
        """Standardised readings (0 where missing), the mask, and each reading's distance from its own mean of the week
        (0 where missing): float32[batch, 7, 12]. The distance spares the network learning what a person's normal is."""
        missing = torch.isnan(window)
        nothing = torch.zeros_like(window)
        values = torch.where(missing, nothing, (window - self.mean) / self.scale)
        mask = missing.to(window.dtype)
        own_mean = values.sum(1, keepdim=True) / (1.0 - mask).sum(1, keepdim=True).clamp(min=1.0)
        return torch.cat([values, mask, torch.where(missing, nothing, values - own_mean)], dim=-1)

    def member_logits(self, window: Tensor) -> Tensor:
        """Each member's own logit, float32[members, batch]: what training fits, one loss a member."""
        steps = self.prepare(window)
        return torch.stack([member(steps) for member in self.members])

    def logits(self, window: Tensor) -> Tensor:
        """The uncalibrated logit, float32[batch]."""
        return self.member_logits(window).mean(0)

    def forward(self, window: Tensor) -> Tensor:
        return torch.sigmoid(self.slope * self.logits(window) + self.intercept)

    def predict(self, values: NDArray[Any], *, chunk: int = 4096) -> NDArray[Any]:
        """Probabilities float32[n] of windows float32[n, 7, 4], without gradients."""
        self.eval()
        with torch.inference_mode():
            parts = [self(torch.from_numpy(values[at : at + chunk])) for at in range(0, len(values), chunk)]
        return torch.cat(parts).numpy()
