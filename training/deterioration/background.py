"""The weeks that explanations hold a window against: typical ones, from low to high scores, and nobody's own.

Training windows are ordered by the model's score and cut into equal groups; each week of the background is a group's
mean, reading by reading, so that no person's readings travel with a model.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from errors import SetupError

FILE: Final = "background.npy"
WEEKS: Final = 16
_LEAST_MEMBERS: Final = 5
"""People's windows that are averaged at least; fewer would be nearly somebody's own."""


def typical_weeks(values: NDArray[np.float32], scores: NDArray[np.floating]) -> NDArray[np.float32]:
    """float32[up to 16, 7, 4] from windows float32[n, 7, 4] and their scores [n].

    A reading that fewer than 5 of a group's windows have is missing. Raises SetupError for fewer than 5 windows, or
    when hardly anything was measured.
    """
    count = max(1, min(WEEKS, len(values) // _LEAST_MEMBERS))
    weeks = []
    for group in np.array_split(np.argsort(scores, kind="stable"), count):
        known = ~np.isnan(values[group])
        members = known.sum(axis=0)
        total = np.where(known, values[group], 0.0).sum(axis=0, dtype=np.float64)
        weeks.append(np.where(members >= _LEAST_MEMBERS, total / np.maximum(members, 1), np.nan))
    measured = [week for week in weeks if not np.isnan(week).all()]
    if not measured:
        raise SetupError(f"A background needs at least {_LEAST_MEMBERS} windows with readings.")
    return np.stack(measured).astype(np.float32)
