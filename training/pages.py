"""Self-contained HTML pages: inline SVG plots, one style, nothing that is loaded or run."""

import html
import io
from collections.abc import Callable
from typing import Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS: Final = "#1f5f8b"
OTHERS: Final = ("#b35c1e", "#6b6b6b", "#3d7a4e", "#8a5a9e")
_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
figure{display:inline-block;margin:0 1rem 1.5rem 0;width:30rem;max-width:100%;vertical-align:top}
svg{max-width:100%;height:auto} figcaption{font-size:.9rem;color:#555} table{border-collapse:collapse;margin:1rem 0}
td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left} td.n{text-align:right}
.verdict{font-weight:600;border-left:4px solid #1f5f8b;padding-left:1rem}
"""


def document(title: str, body: str, *, style: str = "") -> str:
    """A whole page; `body` is HTML, `title` is text."""
    said = html.escape(title)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{said}</title><style>{_STYLE}{style}</style><h1>{said}</h1>{body}</html>\n"
    )


def figure(title: str, caption: str, draw: Callable[[Axes], None]) -> str:
    """A plot with its caption; the same data give the same bytes."""
    with rc_context({"svg.hashsalt": "followup", "font.size": 9, "svg.fonttype": "none"}):
        drawn = Figure(figsize=(4.8, 3.4), layout="constrained")
        axes = drawn.add_subplot()
        draw(axes)
        axes.set_title(title)
        axes.grid(alpha=0.25)
        buffer = io.StringIO()
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption>{html.escape(caption)}</figcaption></figure>"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of texts; every column but the first is set as figures."""
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = [
        "<tr>"
        + "".join(f"<td{' class=n' if column else ''}>{html.escape(cell)}</td>" for column, cell in enumerate(row))
        + "</tr>"
        for row in rows
    ]
    return f"<table><tr>{cells}</tr>{''.join(lines)}</table>"
