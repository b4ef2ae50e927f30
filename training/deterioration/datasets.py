"""Training data: from the tables to labelled seven-day windows, split so that no patient is on both sides.

Reading (`read_*`) is apart from building (`build`), which is pure. Refused, with what is missing and how many there
are: fewer than 50 patients with 14 measured days, fewer than 100 windows, only one class. Values that cannot be
readings are dropped and counted, never repaired. Messages carry counts and no value of a patient.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from math import isnan
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from clinical.vitals import FEATURE_NAMES, FEATURES, HORIZON_DAYS, WINDOW_DAYS, calendar_window
from errors import SetupError
from training.deterioration.simulator import DECLINE_LABEL, ID_PREFIX, SOURCE

LabelSource = Literal["outcomes", "query", "future-measurements"]
Row = Sequence[Any]

CLEAR_DAYS: Final = 4
"""A decline is taken to go on for 5 days after it began: no window starts inside one, so none may begin on the window's
days or on the 4 days before them."""
MINIMUM_PATIENTS: Final = 50
MINIMUM_DAYS: Final = 14
MINIMUM_WINDOWS: Final = 100
RISE: Final = 1.5
MINIMUM_FUTURE: Final = 2
MINIMUM_PAST: Final = 3
BY_QUERY: Final = "query"
SEVERITY: Final = FEATURE_NAMES.index("symptom_severity_score")
LABEL_RULES: Final[Mapping[LabelSource, str]] = {
    "outcomes": f"a decline recorded in patient_outcomes within the {HORIZON_DAYS} days after the window",
    "query": f"a decline that the site's own query names within the {HORIZON_DAYS} days after the window",
    "future-measurements": (
        f"no outcome is recorded, so a rule stands in: the mean symptom severity of the {HORIZON_DAYS} days after the "
        f"window (at least {MINIMUM_FUTURE} values) is at least {RISE} above the window's own mean (at least "
        f"{MINIMUM_PAST} values)"
    ),
}

_MEASUREMENTS = text("""
    SELECT
        patient_id,
        measurement_date,
        pain_score_facial,
        pain_score_self_reported,
        respiratory_rate,
        symptom_severity_score
    FROM patient_measurements
    WHERE measurement_date >= CURRENT_DATE - CAST(:days AS integer) * INTERVAL '1 day'
    ORDER BY patient_id, measurement_date
""")
_OUTCOMES = text("""
    SELECT patient_id, outcome_date, label, source
    FROM patient_outcomes
    WHERE label = :label AND outcome_date >= CURRENT_DATE - CAST(:days AS integer) * INTERVAL '1 day'
    ORDER BY patient_id, outcome_date
""")


@dataclass(frozen=True, slots=True)
class Windows:
    """n labelled windows: values float32[n, 7, 4], labels int8[n], patients int64[n] (a number for each patient),
    last_days int64[n] (proleptic ordinal of the window's last day)."""

    values: NDArray[np.float32]
    labels: NDArray[np.int8]
    patients: NDArray[np.int64]
    last_days: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @staticmethod
    def joined(*parts: "Windows") -> "Windows":
        """The windows of all parts, one part after the other."""
        return Windows(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Windows)))

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Windows":
        """The chosen windows, by mask or by index."""
        return Windows(self.values[chosen], self.labels[chosen], self.patients[chosen], self.last_days[chosen])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Windows, where their labels come from, and what was dropped on the way."""

    windows: Windows
    label_source: LabelSource
    simulated: bool
    patients: int
    onsets: int
    rows: int
    dropped_values: Mapping[str, int]
    left_out: Mapping[str, int]
    sha256: str


@dataclass(frozen=True, slots=True)
class Split:
    """Four parts that share no patient."""

    train: Windows
    validation: Windows
    calibration: Windows
    test: Windows


def read_measurements(engine: Engine, days: int = 90) -> list[Row]:
    """Rows of patient_measurements of the last `days` days. Raises SetupError without the table or the database."""
    try:
        if not inspect(engine).has_table("patient_measurements"):
            raise SetupError("The database has no table patient_measurements; run the migrations first.")
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(_MEASUREMENTS, {"days": days})]
    except SQLAlchemyError as error:
        raise SetupError("patient_measurements cannot be read; check DATABASE_URL and the role's rights.") from error


def read_outcomes(engine: Engine, days: int = 90) -> list[Row]:
    """Declines of the last `days` days and a few before, so that no window's past is in doubt; [] without the table."""
    reach = days + WINDOW_DAYS + CLEAR_DAYS
    try:
        if not inspect(engine).has_table("patient_outcomes"):
            return []
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(_OUTCOMES, {"days": reach, "label": DECLINE_LABEL})]
    except SQLAlchemyError as error:
        raise SetupError("patient_outcomes cannot be read; check DATABASE_URL and the role's rights.") from error


def read_outcomes_by(engine: Engine, query: str) -> list[Row]:
    """Declines by a site's own query, which gives (patient_id, date) and is run in a read-only transaction.

    Raises SetupError when it fails or gives something else; database messages stay out, they may quote values.
    """
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            rows = [tuple(row) for row in connection.execute(text(query))]
    except SQLAlchemyError as error:
        raise SetupError(f"The query for outcomes does not run ({type(error).__name__}).") from error
    if not all(len(row) == 2 and row[0] is not None and isinstance(row[1], date) for row in rows):
        raise SetupError("The query for outcomes must give two columns: patient_id and a date.")
    return [(str(patient), day, DECLINE_LABEL, BY_QUERY) for patient, day in rows]


def build(measurements: Iterable[Row], outcomes: Iterable[Row]) -> Dataset:
    """Check, label and cut the rows into windows. Raises SetupError when there is too little to learn from.

    `measurements`: (patient_id, measurement_date, four values in the order of FEATURES); `outcomes`: (patient_id,
    outcome_date, label, source), of which only declines count.
    """
    measured = [(str(row[0]), _day(row[1]), tuple(row[2:6])) for row in measurements]
    declines = [(str(row[0]), _day(row[1]), str(row[3])) for row in outcomes if row[2] == DECLINE_LABEL]
    dropped: Counter[str] = Counter()
    series = _series(measured, dropped)
    known: dict[str, set[int]] = defaultdict(set)
    for patient, day, _ in declines:
        known[patient].add(day.toordinal())
    label_source: LabelSource = "outcomes" if declines else "future-measurements"
    if any(source == BY_QUERY for _, _, source in declines):
        label_source = "query"
    left_out: Counter[str] = Counter()
    windows = _all_windows(series, known if declines else None, left_out)
    enough = sum(len(days) >= MINIMUM_DAYS for days in series.values())
    _refuse_too_little(enough, len(series), windows)
    onsets = sum(len(known[patient]) for patient in series) if declines else int(windows.labels.sum())
    return Dataset(
        windows=windows,
        label_source=label_source,
        simulated=all(patient.startswith(ID_PREFIX) for patient in series)
        and all(source == SOURCE for _, _, source in declines),
        patients=len(series),
        onsets=onsets,
        rows=len(measured),
        dropped_values={name: dropped[name] for name in FEATURE_NAMES},
        left_out=dict(sorted(left_out.items())),
        sha256=_digest(measured, declines),
    )


def split_by_patient(windows: Windows, *, seed: int) -> Split:
    """Train 55 %, validation 10 %, calibration 15 %, test 20 % of the patients, those with a decline spread evenly.

    Raises SetupError when a part would be without a decline.
    """
    generator = np.random.default_rng(seed)
    with_decline = np.unique(windows.patients[windows.labels == 1])
    without = np.setdiff1d(np.unique(windows.patients), with_decline)
    parts: list[list[NDArray[np.int64]]] = [[], [], [], []]
    for group in (with_decline, without):
        cuts = np.rint(np.array([0.20, 0.35, 0.45]) * len(group)).astype(int)
        for part, members in zip(parts, np.split(generator.permutation(group), cuts), strict=True):
            part.append(members)
    test, calibration, validation, train = (
        windows.take(np.isin(windows.patients, np.concatenate(members))) for members in parts
    )
    if any(len(np.unique(part.labels)) != 2 for part in (train, validation, calibration, test)):
        raise SetupError(
            f"Only {len(with_decline)} patients have a decline; training, validation, calibration and test each need "
            "patients with one."
        )
    return Split(train, validation, calibration, test)


def _day(value: date | datetime) -> date:
    return value.date() if isinstance(value, datetime) else value


def _series(measured: Iterable[tuple[str, date, tuple[Any, ...]]], dropped: Counter[str]) -> dict[str, dict[date, Row]]:
    """Four values for each patient and day (NaN where missing); of two rows for a day the later value counts."""
    series: dict[str, dict[date, list[float]]] = defaultdict(dict)
    for patient, day, values in measured:
        reading = series[patient].setdefault(day, [np.nan] * len(FEATURES))
        for column, (feature, value) in enumerate(zip(FEATURES, values, strict=True)):
            if value is None or isnan(value):  # NaN in a real column means missing too
                continue
            if feature.minimum <= value <= feature.maximum:
                reading[column] = float(value)
            else:
                dropped[feature.name] += 1
    usable: dict[str, dict[date, Row]] = {
        patient: {day: reading for day, reading in days.items() if not np.isnan(reading).all()}
        for patient, days in series.items()
    }
    return {patient: days for patient, days in sorted(usable.items()) if days}


def _all_windows(
    series: Mapping[str, Mapping[date, Row]], known: Mapping[str, set[int]] | None, left_out: Counter[str]
) -> Windows:
    found: list[tuple[NDArray[np.float32], int, int, int]] = []
    for number, (patient, readings) in enumerate(series.items()):
        onsets = None if known is None else known.get(patient, set())
        first, last = min(readings).toordinal(), max(readings).toordinal()
        end = max([last, *(onsets or ())])  # follow-up ends with the last thing known of the patient
        for day in range(first + WINDOW_DAYS - 1, last + 1):
            values = calendar_window(readings, date.fromordinal(day))
            label = _label(values, day, end, onsets, readings)
            if isinstance(label, str):
                left_out[label] += 1
            else:
                found.append((values, label, number, day))
    if not found:
        empty = np.zeros(0, dtype=np.int64)
        return Windows(np.zeros((0, WINDOW_DAYS, len(FEATURES)), np.float32), empty.astype(np.int8), empty, empty)
    values_, labels, patients, days = zip(*found, strict=True)
    return Windows(
        np.stack(values_),
        np.array(labels, dtype=np.int8),
        np.array(patients, dtype=np.int64),
        np.array(days, dtype=np.int64),
    )


def _label(
    values: NDArray[np.float32], day: int, end: int, onsets: set[int] | None, readings: Mapping[date, Row]
) -> int | str:
    """1 or 0, or the reason for which the window that ends on `day` is left out."""
    if day + HORIZON_DAYS > end:
        return "horizon not fully observed"
    if np.isnan(values).all():
        return "nothing measured"
    if onsets is not None:
        if any(day - WINDOW_DAYS - CLEAR_DAYS < onset <= day for onset in onsets):
            return "decline already going on"
        return int(any(day < onset <= day + HORIZON_DAYS for onset in onsets))
    future = [
        readings[on][SEVERITY]
        for ahead in range(1, HORIZON_DAYS + 1)
        if (on := date.fromordinal(day + ahead)) in readings
    ]
    future = [value for value in future if not isnan(value)]
    past = values[:, SEVERITY][~np.isnan(values[:, SEVERITY])]
    if len(future) < MINIMUM_FUTURE or len(past) < MINIMUM_PAST:
        return "too few values for the label rule"
    return int(np.mean(future) - past.mean() >= RISE)


def _refuse_too_little(enough: int, patients: int, windows: Windows) -> None:
    if enough < MINIMUM_PATIENTS:
        raise SetupError(
            f"Training needs at least {MINIMUM_PATIENTS} patients with {MINIMUM_DAYS} measured days each; there are "
            f"{enough} (of {patients} patients with any measurement). Collect more, or load demo data to try it out."
        )
    if len(windows) < MINIMUM_WINDOWS:
        raise SetupError(f"Training needs at least {MINIMUM_WINDOWS} seven-day sequences; there are {len(windows)}.")
    positives = int(windows.labels.sum())
    if positives in (0, len(windows)):
        raise SetupError(
            f"Training needs sequences with and without a decline after them; {positives} of {len(windows)} have one."
        )


def _digest(measured: Iterable[tuple[str, date, tuple[Any, ...]]], declines: Iterable[tuple[str, date, str]]) -> str:
    """SHA-256 over the rows, sorted and as float32, so that the order of reading changes nothing."""
    lines = [
        ["m", patient, day.isoformat(), *(None if v is None else str(np.float32(v)) for v in values)]
        for patient, day, values in measured
    ]
    lines += [["o", patient, day.isoformat(), source] for patient, day, source in declines]
    total = hashlib.sha256()
    for line in sorted(json.dumps(line) for line in lines):
        total.update(f"{line}\n".encode())
    return total.hexdigest()
