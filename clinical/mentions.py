"""From a model's scores of a text's pieces to its mentions: decoded, then set right where words alone decide."""

from collections.abc import Sequence

from clinical.abbreviations import settle
from clinical.entities import Calibration, Pieces, ScoredSpan, decode
from clinical.labelling import Floats, LabelScheme
from clinical.mention_edges import outside_negation, without_fragments
from clinical.note_structure import Statement
from clinical.shorthand import expand


def find(
    text: str,
    pieces: Pieces,
    logits: Floats,
    scheme: LabelScheme,
    calibration: Calibration,
    *,
    parts: Sequence[Statement],
    shorthand: float | None,
) -> list[ScoredSpan]:
    """The mentions of a text without markup (`plain`), in order, never overlapping; `parts` are its statements.

    `logits` is float32[pieces, labels]; `shorthand` how often the table of short forms is right, or None to leave short
    forms to the model.
    """
    found = outside_negation(text, decode(text, pieces, logits, scheme, calibration, parts=parts))
    found = without_fragments(text, found)
    if shorthand is not None:
        found = expand(text, found, parts, shorthand)
    return settle(text, found)
