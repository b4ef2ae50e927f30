"""Fitting the deterioration network: an ordinary log-loss, early stopping on patients of its own, then calibration.

Classes are not weighted: declines are rare, and weighting buys no ranking and spoils every probability. What is left of
mis-calibration is corrected on patients that neither fitting nor stopping has seen. The same windows, config and thread
count give the same weights.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import log_loss
from torch import Tensor, nn

from training.datasets import Split, Windows
from training.deterioration_network import DeteriorationNetwork, NetworkShape
from training.evaluation import logit, platt
from training.progress import Progress


@dataclass(frozen=True, slots=True)
class FitConfig:
    """How the network is fitted."""

    seed: int = 7
    threads: int = 1  # the matrices are small: a second thread costs more in waiting than it gives
    # network
    hidden: int = 32
    members: int = 4
    dropout: float = 0.2
    # length of the walk
    epochs: int = 20
    patience: int = 6  # epochs without a better validation loss
    batch_size: int = 256
    # optimiser
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    warmup: float = 0.1
    clip_norm: float = 1.0
    # augmentation: people skip readings, and readings wobble
    hidden_readings: float = 0.1
    noise: float = 0.3  # of a reading's standard deviation


@dataclass(frozen=True, slots=True)
class Fitted:
    """A calibrated network, and how it came about."""

    network: DeteriorationNetwork
    epochs: int
    best_epoch: int
    validation_log_loss: float


def fit(split: Split, config: FitConfig, progress: Progress) -> Fitted:
    """Fit on split.train, stop on split.validation, calibrate on split.calibration."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            fitted = _descend(split, config, progress)
    finally:
        torch.set_num_threads(threads)
    calibrate(fitted.network, split.calibration)
    return fitted


def calibrate(network: DeteriorationNetwork, windows: Windows) -> None:
    """Set the network's slope and intercept (Platt) from windows of patients it has not seen."""
    network.eval()
    with torch.inference_mode():
        logits = network.logits(torch.from_numpy(windows.values)).numpy()
    slope, intercept = platt(logits, windows.labels)
    if slope <= 0.0:  # it ranks no better than chance: give everyone the prevalence, rather than turn the ranking round
        slope, intercept = 0.0, float(logit(windows.labels.mean(keepdims=True))[0])
    network.slope.fill_(slope)
    network.intercept.fill_(intercept)


def _descend(split: Split, config: FitConfig, progress: Progress) -> Fitted:
    network = DeteriorationNetwork(NetworkShape(hidden=config.hidden, members=config.members), dropout=config.dropout)
    network.standardise_by(split.train.values)
    values, labels = torch.from_numpy(split.train.values), torch.from_numpy(split.train.labels).float()
    batch = min(config.batch_size, len(labels))
    steps = len(labels) // batch
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    total = max(config.epochs * steps, 4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=total, pct_start=max(config.warmup, 2 / total)
    )
    best_loss, best_epoch, best = float("inf"), 0, network.state_dict()
    epoch = 0
    for epoch in range(1, config.epochs + 1):
        network.train()
        order = torch.randperm(len(labels))
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            logits = network.member_logits(_disturbed(values[chosen], network.scale, config))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[chosen].expand_as(logits))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
            optimiser.step()
            schedule.step()
        held_out = validation_loss(network, split.validation)
        if held_out < best_loss:
            best_loss, best_epoch = held_out, epoch
            best = {name: value.clone() for name, value in network.state_dict().items()}
        progress("fitting the network", epoch, config.epochs)
        if epoch - best_epoch >= config.patience:
            break
    network.load_state_dict(best)
    return Fitted(network.eval(), epoch, best_epoch, best_loss)


def validation_loss(network: DeteriorationNetwork, windows: Windows) -> float:
    """Mean log-loss on windows that were not fitted."""
    probability: NDArray[np.float64] = network.predict(windows.values).astype(np.float64)
    return float(log_loss(windows.labels, probability))


def _disturbed(values: Tensor, scale: Tensor, config: FitConfig) -> Tensor:
    """Some readings hidden, the others a little off: float32[batch, 7, 4]."""
    hidden = torch.rand(values.shape) < config.hidden_readings
    return values.masked_fill(hidden, torch.nan) + config.noise * scale * torch.randn(values.shape)
