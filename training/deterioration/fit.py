"""Fitting the deterioration network: an ordinary log-loss over a fixed walk, averaged weights, then calibration.

Classes are not weighted: declines are rare, and weighting buys no ranking and spoils every probability. The walk is not
stopped early: on so few declines the best epoch is a matter of luck (measured: 0.87 of the information with it, 0.90
without, in the same world), and the mean of the weights over the last half is steady. What is left of mis-calibration
is corrected on patients that fitting has not seen. The same windows, config and thread count give the same weights.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import log_loss
from torch import Tensor, nn

from training.deterioration.datasets import Split, Windows
from training.deterioration.evaluation import logit, platt
from training.deterioration.network import DeteriorationNetwork, NetworkShape
from training.progress import Progress
from training.unfinished import Unfinished
from training.walk import Walk, WeightAverage


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
    epochs: int = 16
    batch_size: int = 256
    average_from: float = 0.5  # the share of the walk after which weights are averaged
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
    """A calibrated network, and the log-loss it had on patients that neither fitting nor calibration had seen then."""

    network: DeteriorationNetwork
    validation_log_loss: float


def fit(split: Split, config: FitConfig, progress: Progress, unfinished: Unfinished | None = None) -> Fitted:
    """Fit on split.train, calibrate on split.calibration, judge on split.validation.

    Once judged it is calibrated anew on both parts: neither was fitted to, and a slope from two thirds more people
    is steadier. With `unfinished`, a run that was interrupted goes on after its last whole epoch.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = _descend(split, config, progress, unfinished or Unfinished())
    finally:
        torch.set_num_threads(threads)
    calibrate(network, split.calibration)
    judged = validation_loss(network, split.validation)
    calibrate(network, Windows.joined(split.calibration, split.validation))
    return Fitted(network, judged)


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


def _descend(split: Split, config: FitConfig, progress: Progress, unfinished: Unfinished) -> DeteriorationNetwork:
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
    average = WeightAverage(list(network.parameters()))
    walk = Walk(network=network, optimiser=optimiser, schedule=schedule, average=average)
    network.train()
    for epoch in range(walk.take_up(unfinished), config.epochs):
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
            if epoch * steps + step >= config.average_from * config.epochs * steps:
                average.add()
        walk.keep(unfinished, epoch + 1)
        progress("fitting the network", epoch + 1, config.epochs)
    average.apply()
    unfinished.done()
    return network.eval()


def validation_loss(network: DeteriorationNetwork, windows: Windows) -> float:
    """Mean log-loss on windows that were not fitted."""
    probability: NDArray[np.float64] = network.predict(windows.values).astype(np.float64)
    return float(log_loss(windows.labels, probability))


def _disturbed(values: Tensor, scale: Tensor, config: FitConfig) -> Tensor:
    """Some readings hidden, the others a little off: float32[batch, 7, 4]."""
    hidden = torch.rand(values.shape) < config.hidden_readings
    return values.masked_fill(hidden, torch.nan) + config.noise * scale * torch.randn(values.shape)
