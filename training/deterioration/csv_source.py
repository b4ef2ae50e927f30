"""Training rows from CSV files, for a site without our tables: its own column names and units, by a column map.

    followup train deterioration --from-csv readings.csv --outcomes-csv declines.csv \
      --column patient_id=subject --column measurement_date=day --column pain_score_self_reported=nrs_100/10

Whatever cannot be read is refused with its line and column, all faults at once, and never with what stands there.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from math import isfinite
from pathlib import Path
from typing import Any, Final

from clinical.vitals import FEATURE_NAMES, FEATURES
from errors import SetupError
from training.deterioration.datasets import Row
from training.deterioration.simulator import DECLINE_LABEL

PATIENT: Final = "patient_id"
DATE: Final = "measurement_date"
OUTCOME_DATE: Final = "outcome_date"
SOURCE: Final = "csv"
_MEASUREMENT_COLUMNS: Final = (PATIENT, DATE, *FEATURE_NAMES)
_OUTCOME_COLUMNS: Final = (PATIENT, OUTCOME_DATE)
_MISSING: Final = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "."})
_FAULTS_SHOWN: Final = 10
_MOST_UNBELIEVABLE: Final = 0.2
"""A column with a larger share of values out of range is taken to be in another unit."""
_COLUMN: Final = re.compile(r"(?P<ours>[a-z_]+)=(?P<theirs>.+?)(?:(?P<sign>[*/])(?P<factor>\d+(?:\.\d+)?))?")


@dataclass(frozen=True, slots=True)
class Column:
    """Where one of our columns stands in the file, and what its numbers are multiplied by."""

    theirs: str
    factor: float = 1.0


def column_map(options: Sequence[str]) -> dict[str, Column]:
    """Our column names to the file's, from `OURS=THEIRS`, `OURS=THEIRS*2.5` or `OURS=THEIRS/10`. Raises SetupError."""
    found: dict[str, Column] = {}
    known = {*_MEASUREMENT_COLUMNS, OUTCOME_DATE}
    for option in options:
        match = _COLUMN.fullmatch(option)
        if match is None or match["ours"] not in known:
            raise SetupError(
                f"--column is OURS=THEIRS, OURS=THEIRS*N or OURS=THEIRS/N; OURS: {', '.join(sorted(known))}"
            )
        factor = float(match["factor"] or 1.0)
        if factor == 0 or (factor != 1.0 and match["ours"] not in FEATURE_NAMES):
            raise SetupError("--column: only a reading can be multiplied or divided, and not by 0.")
        found[match["ours"]] = Column(match["theirs"], 1 / factor if match["sign"] == "/" else factor)
    return found


def read_measurements(path: Path, columns: Mapping[str, Column]) -> list[Row]:
    """Rows of (patient_id, date, four values or None), as `datasets.build` takes them.

    Raises SetupError with what is wrong and where: a column that is not there, a date or number that is none, a column
    that seems to be in another unit.
    """
    faults: list[str] = []
    rows: list[Row] = []
    outside = dict.fromkeys(FEATURE_NAMES, 0)
    measured = dict.fromkeys(FEATURE_NAMES, 0)
    for number, cells in _lines(path, _MEASUREMENT_COLUMNS, columns):
        patient, day = cells[PATIENT].strip(), _date(cells[DATE])
        if not patient:
            faults.append(f"line {number}: {PATIENT} is empty")
        if day is None:
            faults.append(f"line {number}: {DATE} is not a date like 2026-11-26")
        values: list[float | None] = []
        for feature in FEATURES:
            value = _number(cells[feature.name])
            if isinstance(value, str):
                faults.append(f"line {number}: {feature.name} {value}")
            elif value is not None:
                value *= columns.get(feature.name, Column("")).factor
                measured[feature.name] += 1
                outside[feature.name] += not feature.minimum <= value <= feature.maximum
            values.append(value if isinstance(value, float) else None)
        rows.append((patient, day, *values))
    for feature in FEATURES:
        count, wrong = measured[feature.name], outside[feature.name]
        if wrong > _MOST_UNBELIEVABLE * count:
            faults.append(
                f"{feature.name}: {wrong} of {count} values are not within {feature.minimum:g} to {feature.maximum:g} "
                f"({feature.unit}); if the column is in another unit: --column {feature.name}=NAME*N or NAME/N"
            )
    _refuse(path, faults)
    if not rows:
        raise SetupError(f"{path.name} has no rows.")
    return rows


def read_outcomes(path: Path, columns: Mapping[str, Column]) -> list[Row]:
    """Rows of (patient_id, date, "decline", "csv"): each line is a decline that began that day. Raises SetupError."""
    faults: list[str] = []
    rows: list[Row] = []
    for number, cells in _lines(path, _OUTCOME_COLUMNS, columns):
        day = _date(cells[OUTCOME_DATE])
        if not cells[PATIENT].strip():
            faults.append(f"line {number}: {PATIENT} is empty")
        if day is None:
            faults.append(f"line {number}: {OUTCOME_DATE} is not a date like 2026-11-26")
        rows.append((cells[PATIENT].strip(), day, DECLINE_LABEL, SOURCE))
    _refuse(path, faults)
    return rows


def refuse_strangers(measurements: Sequence[Row], outcomes: Sequence[Row]) -> None:
    """Raises SetupError when most outcomes are of people without any measurement: the ids do not fit together."""
    known = {row[0] for row in measurements}
    strangers = sum(row[0] not in known for row in outcomes)
    if 2 * strangers > len(outcomes):
        found = f"{strangers} of {len(outcomes)} outcomes are of people without a measurement"
        raise SetupError(f"{found}: do both files use the same ids?")


def _lines(path: Path, needed: Sequence[str], columns: Mapping[str, Column]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(line number, cells by our names) of every row that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            sample = file.read(64 * 1024)
            file.seek(0)
            reader = csv.reader(file, delimiter=_delimiter(sample))
            header = [name.strip() for name in next(reader, [])]
            places = _places(path, header, needed, columns)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    if len(cells) != len(header):
                        raise SetupError(f"{path.name}, line {reader.line_num}: {len(cells)} cells, not {len(header)}")
                    yield reader.line_num, {name: cells[place] for name, place in places.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SetupError(f"{path.name} cannot be read as CSV in UTF-8.") from error


def _delimiter(sample: str) -> str:
    """The one of , ; and tab that the header has most of."""
    header = sample.partition("\n")[0]
    return max(",;\t", key=header.count)


def _places(
    path: Path, header: Sequence[str], needed: Sequence[str], columns: Mapping[str, Column]
) -> Mapping[str, int]:
    theirs = {name: columns[name].theirs if name in columns else name for name in needed}
    missing = [name for name in needed if theirs[name] not in header]
    if missing:
        lacks = ", ".join(theirs[name] for name in missing)
        say = " ".join(f"--column {name}=NAME" for name in missing)
        raise SetupError(f"{path.name} lacks {lacks}. It has: {', '.join(header) or 'none'}. Say which is which: {say}")
    double = [name for name in theirs.values() if header.count(name) > 1]
    if double:
        raise SetupError(f"{path.name} has {', '.join(sorted(set(double)))} twice.")
    return {name: header.index(own) for name, own in theirs.items()}


def _date(cell: str) -> date | None:
    try:
        return datetime.fromisoformat(cell.strip()).date()
    except ValueError:
        return None


def _number(cell: str) -> float | str | None:
    """The value, None where it is missing, or what is wrong."""
    cell = cell.strip()
    if cell.lower() in _MISSING:
        return None
    try:
        value = float(cell)
    except ValueError:
        return "has a decimal comma; write 36.6" if re.fullmatch(r"-?\d+,\d+", cell) else "is not a number"
    return value if isfinite(value) else "is not finite"


def _refuse(path: Path, faults: Sequence[Any]) -> None:
    if faults:
        more = f"\n  and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        listed = "".join(f"\n  {fault}" for fault in faults[:_FAULTS_SHOWN])
        raise SetupError(f"{path.name} cannot be used:{listed}{more}")
