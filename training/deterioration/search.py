"""Looking for better settings of the deterioration network, with optuna: by log-loss on patients kept for it.

The patients that judge and calibrate the model have no say. The settings that were there before are the first trial, so
what comes out is at least as good by that measure.
"""

from dataclasses import asdict, replace
from typing import Any, Final

import optuna

from training.deterioration.datasets import Split
from training.deterioration.fit import FitConfig, fit
from training.progress import Progress, silent

_SEARCHED: Final = ("hidden", "dropout", "epochs", "learning_rate", "weight_decay", "hidden_readings", "noise")


def search(split: Split, base: FitConfig, trials: int, progress: Progress = silent) -> tuple[FitConfig, dict[str, Any]]:
    """The best settings of `trials` fits, and what was seen: the log-losses of the best and of `base`.

    The same split, base and trials give the same settings.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def loss(trial: optuna.Trial) -> float:
        progress("searching for settings", trial.number, trials)
        return fit(split, _suggested(trial, base), silent).validation_log_loss

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=base.seed))
    study.enqueue_trial({name: asdict(base)[name] for name in _SEARCHED})
    study.optimize(loss, n_trials=trials)
    found = {
        "trials": trials,
        "validation_log_loss": study.best_value,
        "validation_log_loss_before": study.trials[0].value,
        "settings": study.best_params,
    }
    return replace(base, **study.best_params), found


def _suggested(trial: optuna.Trial, base: FitConfig) -> FitConfig:
    return replace(
        base,
        hidden=trial.suggest_int("hidden", 8, 64),
        dropout=trial.suggest_float("dropout", 0.0, 0.5),
        epochs=trial.suggest_int("epochs", min(4, base.epochs), max(24, base.epochs)),
        learning_rate=trial.suggest_float("learning_rate", 1e-3, 3e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
        hidden_readings=trial.suggest_float("hidden_readings", 0.0, 0.3),
        noise=trial.suggest_float("noise", 0.0, 0.6),
    )
