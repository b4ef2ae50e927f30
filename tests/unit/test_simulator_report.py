"""The page on the simulated world: it fits real home monitoring, and the figures are those of textbooks."""

import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from cli import app
from clinical.wellness import claims_in
from training.deterioration.simulator import Cohort, simulate
from training.deterioration.simulator_report import gaps, intraclass_correlation, statistics, within_patient_lag_1

DAY = date(2026, 3, 31)


def test_the_world_has_the_shape_of_real_home_monitoring() -> None:
    found = statistics(simulate(300, 90, seed=3, last_day=DAY))
    wrong = [each for each in found if not each.low - 0.02 <= each.value <= each.high + 0.02]
    assert wrong == []


def test_the_statistics_are_right_where_the_truth_is_known() -> None:
    generator = np.random.default_rng(0)
    level = generator.normal(size=(400, 1, 1)) * 2
    series = np.zeros((400, 80, 4))
    noise = generator.normal(size=series.shape)
    for day in range(1, 80):
        series[:, day] = 0.4 * series[:, day - 1] + np.sqrt(1 - 0.16) * noise[:, day]
    cohort = replace(simulate(400, 80, seed=1, last_day=DAY), values=level + series)
    np.testing.assert_allclose(within_patient_lag_1(cohort), 0.4, atol=0.04)
    np.testing.assert_allclose(intraclass_correlation(cohort), 0.8, atol=0.04)  # 4 / (4 + 1)


def test_gaps_are_runs_of_days_without_any_reading() -> None:
    values = np.full((1, 7, 4), np.nan)
    values[0, [0, 3, 4], 1] = 5.0
    cohort: Cohort = replace(simulate(1, 7, seed=1, last_day=DAY), values=values)
    assert gaps(cohort) == [[2, 2]]


def test_the_command_writes_a_page_that_loads_nothing_and_touches_no_database(tmp_path: Path) -> None:
    target = tmp_path / "world.html"
    done = CliRunner().invoke(app, ["demo-data", "--report", str(target), "--patients", "60", "--days", "60"])
    assert done.exit_code == 0, done.output
    page = target.read_text(encoding="utf-8")
    assert page.count("<figure>") == 5
    assert "say nothing about real people" in page
    assert not re.search(r"<script|<img|<link|<iframe|url\((?!#)|@import", page)
    assert not claims_in(re.sub(r"<[^>]+>", " ", page), denials=True)
