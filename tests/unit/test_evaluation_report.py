"""The page on a model: complete, the same each time, and loading nothing."""

import re
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from clinical.wellness import claims_in
from training.deterioration.datasets import Windows
from training.deterioration.evaluation import lead_times
from training.deterioration.fit import FitConfig
from training.deterioration.simulator import simulate
from training.train_deterioration_model import Rows, TrainingConfig
from training.train_logistic_model import make_model

CONFIG = TrainingConfig(fit=FitConfig(seed=5), ceiling_patients=60, ceiling_days=30)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    cohort = simulate(100, 60, seed=11, last_day=date(2026, 1, 31))
    folder: Path = tmp_path_factory.mktemp("report")
    make_model(folder, Rows(list(cohort.measurement_rows()), list(cohort.outcome_rows())), CONFIG)
    return (folder / "evaluation.html").read_text(encoding="utf-8")


def test_it_has_every_figure_and_the_verdict_first(page: str) -> None:
    assert page.count("<figure>") == 8
    assert page.count("<svg") == page.count("</svg>") == page.count("<figcaption>") == 8
    assert page.index('class="verdict"') < page.index("<table>")
    assert "the figures say nothing about real people" in page
    assert not claims_in(re.sub(r"<[^>]+>", " ", page), denials=True)


def test_it_loads_and_runs_nothing(page: str) -> None:
    assert not re.search(r"<script|<img|<link|<iframe|url\((?!#)|\son\w+=|@import", page)
    assert not re.search(r'(?:src|href)="(?!#)', page.replace('xlink:href="#', ""))


def test_lead_time_is_counted_from_the_first_mark_of_a_run() -> None:
    days = np.array([10, 11, 12, 30, 31, 32, 50], dtype=np.int64)
    labels = np.array([1, 1, 1, 1, 1, 1, 0], dtype=np.int8)
    windows = Windows(np.zeros((7, 7, 4), np.float32), labels, np.zeros(7, np.int64), days)
    assert lead_times(windows, np.array([False, True, True, True, False, False, True])) == ([2, 3], 2)
    assert lead_times(windows, np.zeros(7, dtype=bool)) == ([], 2)
