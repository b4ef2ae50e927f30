"""The window a deterioration model sees: seven days of four home measurements.

Training and serving build windows here and nowhere else, so that they cannot drift apart. Nothing is imputed: a value
that was not measured is NaN, and the model's own graph decides what that means.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from errors import FieldFault, InvalidInput

WINDOW_DAYS: Final = 7
HORIZON_DAYS: Final = 3


@dataclass(frozen=True, slots=True)
class Feature:
    """One measured quantity, its unit and the range in which a reading is believable."""

    name: str
    unit: str
    minimum: float
    maximum: float


FEATURES: Final = (
    Feature("pain_score_facial", "0-10", 0.0, 10.0),
    Feature("pain_score_self_reported", "0-10", 0.0, 10.0),
    Feature("respiratory_rate", "breaths/min", 4.0, 60.0),
    Feature("symptom_severity_score", "0-10", 0.0, 10.0),
)
FEATURE_NAMES: Final = tuple(feature.name for feature in FEATURES)
PREPROCESSING_VERSION: Final = "vitals-1"

# JSON Schema (2020-12) of one day as callers send it.
DAY_SCHEMA: Final[dict[str, Any]] = {
    "type": ["object", "null"],
    "additionalProperties": False,
    "properties": {
        "date": {"type": ["string", "null"], "format": "date"},
        **{
            feature.name: {
                "type": ["number", "null"],
                "minimum": feature.minimum,
                "maximum": feature.maximum,
                "description": feature.unit,
            }
            for feature in FEATURES
        },
    },
}

Day = Mapping[str, float | None]


def window(days: Sequence[Day | None]) -> NDArray[np.float32]:
    """Seven days, oldest first, as float32[7, 4] in the order of FEATURES; a missing day or value is NaN.

    Raises InvalidInput when the number of days is not seven, a value is out of range, or nothing at all was measured.
    """
    if len(days) != WINDOW_DAYS:
        raise InvalidInput("A window has exactly 7 days.", [FieldFault("/measurements", "must have exactly 7 days")])
    values = np.full((WINDOW_DAYS, len(FEATURES)), np.nan, dtype=np.float32)
    faults: list[FieldFault] = []
    for row, day in enumerate(days):
        for column, feature in enumerate(FEATURES):
            value = None if day is None else day.get(feature.name)
            if value is None:
                continue
            if not feature.minimum <= value <= feature.maximum:
                message = f"must be between {feature.minimum:g} and {feature.maximum:g} ({feature.unit})"
                faults.append(FieldFault(f"/measurements/{row}/{feature.name}", message))
            else:
                values[row, column] = value
    if faults:
        raise InvalidInput("A measurement is out of range.", faults)
    if np.isnan(values).all():
        raise InvalidInput("Nothing was measured.", [FieldFault("/measurements", "needs at least one value")])
    return values


def calendar_window(readings: Mapping[date, Sequence[float]], last_day: date) -> NDArray[np.float32]:
    """The seven calendar days that end with `last_day`, as float32[7, 4]; days without a reading are NaN.

    `readings` maps a date to its four values in the order of FEATURES (NaN where not measured).
    """
    values = np.full((WINDOW_DAYS, len(FEATURES)), np.nan, dtype=np.float32)
    first = last_day.toordinal() - WINDOW_DAYS + 1
    for row in range(WINDOW_DAYS):
        reading = readings.get(date.fromordinal(first + row))
        if reading is not None:
            values[row] = reading
    return values
