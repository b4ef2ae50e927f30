"""Another site's CSV: what does not fit is told by line and column without its values; with a column map it is read."""

import csv
import json
import random
from datetime import date, timedelta
from pathlib import Path

import bentoml
import pytest

from clinical.vitals import FEATURE_NAMES
from errors import SetupError
from training.deterioration import csv_source
from training.deterioration.csv_source import Column, column_map, read_measurements, read_outcomes, refuse_strangers
from training.deterioration.simulator import simulate
from training.train_deterioration_model import main

HEADER = (
    "patient_id,measurement_date,pain_score_facial,pain_score_self_reported,respiratory_rate,symptom_severity_score"
)


def written(folder: Path, text: str, name: str = "readings.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_rows_come_out_typed(tmp_path: Path) -> None:
    path = written(
        tmp_path, f"{HEADER}\nÅsa-1,2026-01-02,1.5,,16,NA\n\nb,2026-01-03T08:15:00Z,0,10,nan,2\n", encoding="utf-8-sig"
    )
    assert read_measurements(path, {}) == [
        ("Åsa-1", date(2026, 1, 2), 1.5, None, 16.0, None),
        ("b", date(2026, 1, 3), 0.0, 10.0, None, 2.0),
    ]


def test_a_column_map_renames_and_scales(tmp_path: Path) -> None:
    path = written(tmp_path, "subject;day;face;nrs 100;breaths;sev;site\nb;2026-01-03;1;55;0.25;2;X\n")
    options = ["patient_id=subject", "measurement_date=day", "pain_score_facial=face", "symptom_severity_score=sev"]
    columns = column_map([*options, "pain_score_self_reported=nrs 100/10", "respiratory_rate=breaths*60"])
    assert columns["respiratory_rate"] == Column("breaths", 60.0)
    assert read_measurements(path, columns) == [("b", date(2026, 1, 3), 1.0, pytest.approx(5.5), 15.0, 2.0)]


@pytest.mark.parametrize("option", ["", "x", "patient=a", "patient_id=", "patient_id=a*2", "respiratory_rate=a*0"])
def test_an_option_that_is_no_mapping_is_refused(option: str) -> None:
    with pytest.raises(SetupError, match="--column"):
        column_map([option])


def test_all_faults_are_told_by_line_and_without_what_stands_there(tmp_path: Path) -> None:
    secret = "Quatermain"
    rows = [
        f"p,{secret},1,1,16,1",
        f"p,2026-01-01,{secret},1,16,1",
        ",2026-01-01,1,1,16,1",
        'p,2026-01-01,"3,5",1,inf,1',
    ]
    path = written(tmp_path, "\n".join([HEADER, *rows, *[f"p,{secret},1,1,1e999,1"] * 9]))
    with pytest.raises(SetupError) as refused:
        read_measurements(path, {})
    told = str(refused.value)
    assert secret not in told
    for part in (
        "line 2: measurement_date is not a date",
        "line 3: pain_score_facial is not a number",
        "line 4: patient_id is empty",
        "line 5: pain_score_facial has a decimal comma",
        "line 5: respiratory_rate is not finite",
        "and 13 more",
    ):
        assert part in told


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = written(tmp_path, "subject,measurement_date\nx,2026-01-01\n")
    with pytest.raises(SetupError) as refused:
        read_measurements(path, {})
    assert "lacks patient_id, pain_score_facial" in str(refused.value)
    assert "It has: subject, measurement_date" in str(refused.value)
    assert "--column patient_id=NAME" in str(refused.value)


def test_another_unit_is_noticed(tmp_path: Path) -> None:
    lines = [f"p,2026-01-{day:02},2,{40 + day},16,3" for day in range(1, 29)]
    with pytest.raises(SetupError, match=r"pain_score_self_reported: 28 of 28 values are not within 0 to 10.*NAME/N"):
        read_measurements(written(tmp_path, "\n".join([HEADER, *lines])), {})


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", HEADER.encode(), HEADER.encode() + b"\np,2026-01-01,1\n", b'"' + b"a" * 200_000]
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(SetupError, match=r"x\.csv"):
        read_measurements(path, {})
    with pytest.raises(SetupError):
        read_measurements(tmp_path / "nowhere.csv", {})


def test_a_doubled_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="patient_id twice"):
        read_measurements(written(tmp_path, f"patient_id,{HEADER}\n"), {})


def test_outcomes_of_strangers_are_refused(tmp_path: Path) -> None:
    outcomes = read_outcomes(
        written(tmp_path, "patient_id,outcome_date\na,2026-01-01\nb,2026-01-02\nc,2026-01-02\n"), {}
    )
    assert outcomes[0] == ("a", date(2026, 1, 1), "decline", csv_source.SOURCE)
    with pytest.raises(SetupError, match="2 of 3 outcomes"):
        refuse_strangers([("a",)], outcomes)
    refuse_strangers([("a",), ("b",)], outcomes)


def site_files(folder: Path, *, patients: int, days: int = 60) -> list[str]:
    """Another site's files of simulated people: own names, a percent scale, a gap of 20 days; and the column map."""
    cohort = simulate(patients, days, seed=3, last_day=date(2026, 1, 31))
    gap = {cohort.first_day + timedelta(days=30 + day) for day in range(20)}
    with (folder / "site.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Subject", "Tag", "Gesicht", "NRS100", "AF", "Schwere"])
        for patient, day, facial, told, breathing, severity in cohort.measurement_rows():
            if day not in gap or not patient.endswith(("0", "1", "2", "3")):
                scaled = None if told is None else told * 10
                writer.writerow([f"site-{patient}", day.isoformat(), facial, scaled, breathing, severity])
    with (folder / "declines.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Subject", "Beginn"])
        writer.writerows((f"site-{patient}", day.isoformat()) for patient, day, _, _ in cohort.outcome_rows())
    names = {
        "patient_id": "Subject",
        "measurement_date": "Tag",
        "outcome_date": "Beginn",
        "pain_score_facial": "Gesicht",
        "pain_score_self_reported": "NRS100/10",
        "respiratory_rate": "AF",
        "symptom_severity_score": "Schwere",
    }
    return [part for ours, theirs in names.items() for part in ("--column", f"{ours}={theirs}")]


def test_a_site_trains_without_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    columns = site_files(tmp_path, patients=90)
    files = ["--from-csv", str(tmp_path / "site.csv"), "--outcomes-csv", str(tmp_path / "declines.csv")]
    assert main(files) == 1
    assert "lacks patient_id" in capsys.readouterr().err
    assert main([*files, *[option.replace("NRS100/10", "NRS100") for option in columns]]) == 1
    assert "another unit" in capsys.readouterr().err
    assert main([*files, *columns, "--epochs", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["test_patients"] > 10
    bentoml.models.delete(found["tag"])


def test_the_least_that_is_allowed_gives_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    draw = random.Random(1)
    with (tmp_path / "least.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient_id", "measurement_date", *FEATURE_NAMES])
        for patient in range(50):
            for day in range(1, 15):
                readings = [draw.randint(low, high) for low, high in ((0, 10), (0, 10), (12, 24), (0, 10))]
                writer.writerow([f"p{patient}", f"2026-01-{day:02}", *readings])
    assert main(["--from-csv", str(tmp_path / "least.csv"), "--epochs", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert bentoml.models.get(found["tag"]).info.labels["stage"] == "experimental"
    assert "later_weeks" not in found["metrics"]  # no later weeks in two: absent, not a figure
    bentoml.models.delete(found["tag"])


def test_too_few_people_are_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    columns = site_files(tmp_path, patients=20)
    files = ["--from-csv", str(tmp_path / "site.csv"), "--outcomes-csv", str(tmp_path / "declines.csv")]
    assert main([*files, *columns]) == 1
    assert "at least 50 patients" in capsys.readouterr().err
    assert main([]) == 1
    assert "--from-csv" in capsys.readouterr().err
