"""One self-contained HTML page on a NER version: figures by type, what is taken for what, every mistake in its text.

The texts are this project's held-out lines, whose people are made up. A site's own notes never reach the page: it is
stored and served with the model.
"""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes

from clinical.entities import ENTITY_TYPES, ScoredSpan
from training.ner.corpus import MarkedLine, Mention
from training.ner.evaluation import scores_and_hits
from training.pages import OTHERS, OURS, document, figure, table

_NOTHING: Final = "nothing"
_BINS: Final = 10
_STYLE: Final = """
.line{margin:.6rem 0;padding:.5rem .8rem;border-left:3px solid #ddd;white-space:pre-wrap}
mark{background:none;border-radius:3px;padding:0 .15em} mark sub{font-size:.65em;color:#555;margin-left:.2em}
.right{box-shadow:inset 0 -2px #3d7a4e} .missed{background:#f6d9d5}
.extra{background:#fbeec2;outline:1px dashed #b35c1e}
"""


def page(
    name: str, metrics: Mapping[str, Any], lines: Sequence[MarkedLine], found: Sequence[Sequence[ScoredSpan]]
) -> str:
    """The page on what a version found in the held-out `lines`."""
    strict, relaxed = metrics["f1_strict"], metrics["f1_relaxed"]
    scores, right = scores_and_hits(lines, found)
    wrong = [(line, spans) for line, spans in zip(lines, found, strict=True) if _differs(line, spans)]
    return document(
        name,
        f'<p class="verdict">Entity F1 {strict["f1"]:.3f} strict (95 % interval {strict["f1_low"]:.3f} to '
        f"{strict['f1_high']:.3f}), {relaxed['f1']:.3f} relaxed, on {len(lines)} held-out lines with "
        f"{strict['mentions']} mentions.</p>"
        "<p>The lines were written for this project, apart from those that were learnt from; nobody in them is real. "
        "Real notes differ. This is wellness monitoring; it makes no medical claim.</p>"
        + table(("type", "strict F1", "95 % interval", "relaxed F1", "mentions", "fp32", "int8"), _rows(metrics))
        + figure(
            "F1 by type", "Strict, with 95 % interval by lines; hollow: relaxed.", partial(_by_type, metrics=metrics)
        )
        + figure(
            "What is taken for what",
            "Marked type by row, found type by column, where places overlap; counts.",
            partial(_confusion, counts=confusion(lines, found)),
        )
        + figure(
            "Are scores probabilities?",
            "Mean score against the share that is strictly right, ten bins; the line is ideal.",
            partial(_reliability, scores=scores, right=right),
        )
        + f"<h2>Mistakes: {len(wrong)} of {len(lines)} lines</h2>"
        '<p><mark class="right">found as marked</mark>, <mark class="missed">missed</mark>, '
        '<mark class="extra">found and not marked so</mark>.</p>'
        + "".join(_marked(line, spans) for line, spans in wrong),
        style=_STYLE,
    )


def confusion(lines: Sequence[MarkedLine], found: Sequence[Sequence[ScoredSpan]]) -> Counter[tuple[str, str]]:
    """How often a marked type met a found type at overlapping places; what met nothing is paired with "nothing"."""
    counts: Counter[tuple[str, str]] = Counter()
    for line, spans in zip(lines, found, strict=True):
        free = list(spans)
        for mention in line.mentions:
            # the same type first, so that a neighbour of another type does not take a mention's partner
            meeting = sorted(
                (span for span in free if span.start < mention.end and mention.start < span.end),
                key=lambda span: span.type != mention.type,
            )
            counts[mention.type, meeting[0].type if meeting else _NOTHING] += 1
            if meeting:
                free.remove(meeting[0])
        counts.update((_NOTHING, span.type) for span in free)
    return counts


def _rows(metrics: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for kind, told in metrics["by_type"].items():
        strict = told["strict"]
        both = [f"{metrics[graph]['by_type'][kind]['strict']['f1']:.3f}" for graph in ("fp32", "int8")]
        interval = f"{strict['f1_low']:.3f} to {strict['f1_high']:.3f}"
        rows.append(
            (kind, f"{strict['f1']:.3f}", interval, f"{told['relaxed']['f1']:.3f}", str(strict["mentions"]), *both)
        )
    return rows


def _by_type(axes: Axes, metrics: Mapping[str, Any]) -> None:
    kinds = list(metrics["by_type"])[::-1]
    for height, kind in enumerate(kinds):
        strict, relaxed = (metrics["by_type"][kind][how] for how in ("strict", "relaxed"))
        axes.plot([strict["f1_low"], strict["f1_high"]], [height, height], color=OURS, linewidth=1.5)
        axes.plot(strict["f1"], height, "o", color=OURS)
        axes.plot(relaxed["f1"], height, "o", markerfacecolor="none", color=OTHERS[1])
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set(xlabel="F1", xlim=(0, 1))


def _confusion(axes: Axes, counts: Counter[tuple[str, str]]) -> None:
    names = [*ENTITY_TYPES, _NOTHING]
    grid = np.array([[counts[row, column] for column in names] for row in names], dtype=np.float64)
    shares = grid / np.maximum(grid.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(grid > 0).tolist():
        color = "white" if shares[row, column] > 0.5 else "#222"
        axes.text(column, row, f"{grid[row, column]:.0f}", ha="center", va="center", fontsize=6, color=color)
    short = [name.title()[:9] for name in names]
    axes.set_xticks(range(len(names)), short, rotation=60, fontsize=6)
    axes.set_yticks(range(len(names)), short, fontsize=6)
    axes.set(xlabel="found", ylabel="marked")


def _reliability(axes: Axes, scores: Any, right: Any) -> None:
    parts = [part for part in np.array_split(np.argsort(scores, kind="stable"), _BINS) if len(part)]
    axes.plot([0, 1], [0, 1], color=OTHERS[1], linewidth=1)
    axes.plot(
        [float(scores[part].mean()) for part in parts], [float(right[part].mean()) for part in parts], "o-", color=OURS
    )
    axes.set(xlabel="score", ylabel="right", xlim=(0, 1), ylim=(0, 1))


def _places(line: MarkedLine, spans: Sequence[ScoredSpan]) -> tuple[set[Mention], set[Mention]]:
    return set(line.mentions), {Mention(span.type, span.start, span.end) for span in spans}


def _differs(line: MarkedLine, spans: Sequence[ScoredSpan]) -> bool:
    marked, own = _places(line, spans)
    return marked != own


def _marked(line: MarkedLine, spans: Sequence[ScoredSpan]) -> str:
    """The line with what is right, missed and found besides; where these overlap, one line for each of the two."""
    marked, own = _places(line, spans)
    rows = [_row(line.text, marked, {mention: "right" if mention in own else "missed" for mention in marked})]
    if own - marked:
        rows.append(_row(line.text, own, {mention: "right" if mention in marked else "extra" for mention in own}))
    said = html.escape(f"{line.register}, line {line.number}" if line.register else f"line {line.number}")
    return f'<div class="line"><small>{said}</small><br>{"<br>".join(rows)}</div>'


def _row(text: str, mentions: set[Mention], kinds: Mapping[Mention, str]) -> str:
    parts, cursor = [], 0
    for mention in sorted(mentions, key=lambda one: one.start):
        parts.append(html.escape(text[cursor : mention.start]))
        words = html.escape(text[mention.start : mention.end])
        parts.append(f'<mark class="{kinds[mention]}">{words}<sub>{mention.type.lower()}</sub></mark>')
        cursor = mention.end
    return "".join((*parts, html.escape(text[cursor:])))
