"""The deterioration runner: from seven days of readings to a score, its band and the change from the week's start.

Refuses anything that is not exactly seven days of believable numbers, and says where, never what was sent. The
confidence of a prediction is the probability the model gives to the likelier of the two outcomes: max(p, 1 - p).

`change_from_baseline` answers "against what?" with all that a request of seven days holds: the person's own first three
days. The model is asked twice in the same call, once for the week as it was and once for the same week had every
measurement stayed at its own mean of days 1-3 (same gaps; a measurement not taken on days 1-3 is left as it was). The
difference of the two scores is the change; it is null when nothing was measured on days 1-3 or nothing on days 4-7.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from math import isnan
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clinical.vitals import FEATURE_NAMES, FEATURES, WINDOW_DAYS, Day, window
from clinical.wellness import band_of
from errors import FieldFault, InvalidInput, SetupError
from runners.explanation import Background, explain_week
from runners.onnx_session import open_session
from runners.runner import Prediction

Item = NDArray[np.float32]

MODEL_FILE: Final = "deterioration_lstm.onnx"  # of versions whose parameters do not name theirs
CHUNK_ROWS: Final = 1024
BASELINE_DAYS: Final = 3
_BODY: Final = frozenset({"measurements"})
_DAY: Final = frozenset({"date", *FEATURE_NAMES})
_NUMBERS: Final = (float, int)


class DeteriorationRunner:
    """One version of the deterioration model, behind the `Runner` protocol."""

    def __init__(self, folder: Path, parameters: Mapping[str, Any], *, intra_op_threads: int = 1) -> None:
        """Open the model in `folder`; `parameters` are the manifest's. Raises SetupError when either is unusable."""
        try:
            self._some = float(parameters["some_change_from"])
            self._marked = float(parameters["marked_change_from"])
        except (KeyError, TypeError, ValueError) as error:
            raise SetupError("The model's parameters do not say where its bands begin.") from error
        if not 0.0 < self._some < self._marked <= 1.0:
            raise SetupError("The model's bands do not begin in ascending order between 0 and 1.")
        file = parameters.get("model_file", MODEL_FILE)
        if not isinstance(file, str) or Path(file).name != file:
            raise SetupError("The model's parameters name no file of the model.")
        self._session = open_session(folder / file, intra_op_threads=intra_op_threads)
        self._input = self._session.get_inputs()[0].name
        self._background = Background.read(folder)

    @property
    def rules(self) -> str:
        """None: the score is the model's own."""
        return ""

    def parse(self, input_data: Mapping[str, Any]) -> Item:
        """`{"measurements": [7 x (null or a day)]}` as float32[7, 4]. Raises InvalidInput with every fault's place."""
        days = _days(input_data)
        faults: list[FieldFault] = []
        for row, day in enumerate(days):
            if day is not None:
                _check_day(row, day, faults)
        if faults:
            raise InvalidInput("A day does not have the right form.", faults)
        _check_dates(days)
        return window(days)

    def canonical(self, item: Item) -> Any:
        """The window as rows of four numbers or null; dates do not count, since the model does not see them."""
        return {"measurements": [[None if isnan(value) else value + 0.0 for value in row] for row in item.tolist()]}

    def cost(self, item: Item) -> int:
        """One row."""
        return 1

    def run(self, items: Sequence[Item]) -> Sequence[Prediction]:
        """Score windows float32[7, 4], in order."""
        if not items:
            return []
        windows = np.stack(items)
        reference, comparable = week_as_it_began(windows)
        scores = self.probabilities(np.concatenate([windows, reference]))
        now, then = scores[: len(items)].tolist(), scores[len(items) :].tolist()
        return [self._prediction(*each) for each in zip(now, then, comparable.tolist(), strict=True)]

    def explain(self, item: Item) -> dict[str, Any]:
        """Exact Shapley values of one window's score; see runners/explanation.py."""
        if self._background is None:
            fault = FieldFault("/explain", "this version of the model came without weeks to compare with")
            raise InvalidInput("This version of the model cannot explain its answers.", [fault])
        return explain_week(self.probabilities, item, self._background)

    def probabilities(self, windows: Item) -> NDArray[np.float32]:
        """float32[n] for windows float32[n, 7, 4], at most 1,024 rows a call (8,192 rows cost 20 times 1,024)."""
        parts = [
            self._session.run(None, {self._input: windows[at : at + CHUNK_ROWS]})[0]
            for at in range(0, len(windows), CHUNK_ROWS)
        ]
        return np.concatenate(parts)

    def warm_up(self) -> None:
        """One window, and one full chunk."""
        typical = np.full((WINDOW_DAYS, len(FEATURES)), np.nan, dtype=np.float32)
        typical[-1] = [feature.minimum for feature in FEATURES]
        self.run([typical])
        self.run([typical] * (CHUNK_ROWS // 2))

    def _prediction(self, probability: float, began: float, comparable: bool) -> Prediction:
        score = round(probability, 2)
        change = round(probability - began, 2) + 0.0 if comparable else None  # + 0.0 makes -0.0 a plain 0.0
        result = {
            "score": score,
            "band": band_of(score, self._some, self._marked),  # of the score shown, so that the two never disagree
            "change_from_baseline": change,
        }
        return Prediction(result, max(probability, 1.0 - probability))


def week_as_it_began(windows: Item) -> tuple[Item, NDArray[np.bool_]]:
    """The same weeks had every measurement stayed at its mean of the first three days, float32[n, 7, 4], and whether
    the comparison means anything, bool[n]."""
    known = ~np.isnan(windows)
    early = known[:, :BASELINE_DAYS]
    count = early.sum(axis=1, keepdims=True)
    total = np.where(early, windows[:, :BASELINE_DAYS], np.float32(0)).sum(axis=1, keepdims=True)
    mean = total / np.maximum(count, 1).astype(np.float32)
    stayed = np.where(known & (count > 0), mean, windows).astype(np.float32)
    later = known[:, BASELINE_DAYS:] & (count > 0)
    return stayed, later.any(axis=(1, 2))


def _days(input_data: Mapping[str, Any]) -> Sequence[Mapping[str, Any] | None]:
    if not isinstance(input_data, dict):
        raise InvalidInput("The input is not an object.", [FieldFault("", "must be an object")])
    if not input_data.keys() <= _BODY:
        raise InvalidInput("The input has a field that is not known.", [FieldFault("", "allows only: measurements")])
    days = input_data.get("measurements")
    if not isinstance(days, list) or len(days) != WINDOW_DAYS:
        fault = FieldFault("/measurements", f"must be a list of exactly {WINDOW_DAYS} days, oldest first")
        raise InvalidInput("A window has exactly 7 days.", [fault])
    return days


def _check_day(row: int, day: Any, faults: list[FieldFault]) -> None:
    if not isinstance(day, dict):  # what JSON gives; a Mapping check costs more than all the rest
        faults.append(FieldFault(f"/measurements/{row}", "must be an object or null"))
        return
    if not day.keys() <= _DAY:
        faults.append(FieldFault(f"/measurements/{row}", f"allows only: date, {', '.join(FEATURE_NAMES)}"))
    for name in FEATURE_NAMES:
        value = day.get(name)
        # type() and not isinstance(): true and false are not readings; NaN fails the range check of the window
        if value is not None and type(value) not in _NUMBERS:
            faults.append(FieldFault(f"/measurements/{row}/{name}", "must be a number or null"))


def _check_dates(days: Sequence[Day | Mapping[str, Any] | None]) -> None:
    """Where days carry dates, they must be consecutive calendar days, oldest first."""
    faults: list[FieldFault] = []
    first: int | None = None
    for row, day in enumerate(days):
        stated: Any = None if day is None else day.get("date")
        if stated is None:
            continue
        ordinal = _ordinal(stated)
        if ordinal is None:
            faults.append(FieldFault(f"/measurements/{row}/date", "must be a calendar date, YYYY-MM-DD"))
        elif first is None:
            first = ordinal - row
        elif ordinal - row != first:
            faults.append(
                FieldFault(f"/measurements/{row}/date", "must be the calendar day this place in the week has")
            )
    if faults:
        raise InvalidInput("The days are not seven consecutive dates.", faults)


def _ordinal(stated: Any) -> int | None:
    if not isinstance(stated, str) or len(stated) != 10 or stated[4] != "-" or stated[7] != "-":
        return None
    try:
        return date.fromisoformat(stated).toordinal()
    except ValueError:
        return None
