"""S9 and S12: the weekly review and the accounting of disclosures, as they were agreed on (tests/golden)."""

import json
import os
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from audit import report
from commands.shared import plain
from errors import SetupError
from tests.trail_rows import make_signer

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def entry(hours: float, principal: str, roles: str, action: str, status: int = 200, **more: Any) -> dict[str, Any]:
    return {
        "created_at": datetime(2026, 11, 16, 8, tzinfo=UTC) + timedelta(hours=hours),
        "principal": principal,
        "roles": roles,
        "action": action,
        "status": status,
        "outcome": "success" if status < 400 else "denied",
        "patient_id": None,
        "target": None,
        "purpose_of_use": "CAREMGT",
        **more,
    }


LOG = [
    entry(0, "dr-a", "clinician", "predict", patient_id="p1", target="prediction-1"),
    entry(1, "dr-a", "clinician", "predict", patient_id="p1", target="prediction-2"),
    entry(2, "p1", "patient", "read predictions", patient_id="p1", purpose_of_use="PATRQT"),
    entry(3, "dr-b", "clinician", "read predictions", 403, patient_id="p1"),
    entry(3.1, "dr-b", "clinician", "break glass", patient_id="p1", purpose_of_use="BTG"),
    entry(3.2, "dr-b", "clinician", "read predictions", patient_id="p1", purpose_of_use="BTG"),
    entry(18, "job | runner", "service", "predict", patient_id="p2", target="prediction-3", purpose_of_use="HOPERAT"),
    entry(30, "auditor-1", "auditor", "read audit"),
]


def golden(name: str, text: str) -> None:
    if os.environ.get("WRITE_GOLDEN"):
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert (GOLDEN / name).read_text(encoding="utf-8") == text


@pytest.mark.requirement("S9")
def test_the_weekly_review_is_the_agreed_one_and_signed(tmp_path: Path) -> None:
    review = report.activity("2026-W47", LOG)
    golden("activity.json", json.dumps(review, indent=2) + "\n")
    text = report.activity_markdown(review)
    golden("activity.md", text)
    signer = make_signer(tmp_path)
    assert signer.verifier.open(signer.sign(text)) == text


def test_an_empty_week_says_so() -> None:
    assert report.activity("2026-W47", [])["total"] == 0
    assert report.activity_markdown(report.activity("2026-W47", [])).count("None.") == 5


@pytest.mark.requirement("S12")
def test_the_accounting_of_disclosures_is_the_agreed_one() -> None:
    golden("disclosures.json", json.dumps(report.disclosures("p1", LOG), indent=2) + "\n")


@pytest.mark.parametrize("week", ["2026-48", "2026-W54", "2026-W00", "W48", ""])
def test_what_is_no_week_is_refused(week: str) -> None:
    with pytest.raises(SetupError):
        report.week_bounds(week)


def test_a_week_begins_on_monday() -> None:
    assert report.week_bounds("2026-W48")[0] == datetime(2026, 11, 23, tzinfo=UTC)


def test_nothing_in_the_log_steers_the_terminal_of_who_reads_the_review() -> None:
    hostile = "\x1b[2J\x9b31m\u202e[red]x[/red]\x07"
    written = report.activity_markdown(report.activity("2026-W47", [entry(0, hostile, hostile, hostile, 403)]))
    assert all(shown.isprintable() or shown == "\n" for shown in written)
    console = Console(width=200, file=StringIO())
    table = Table("who")
    table.add_row(plain(hostile))
    console.print(table)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\\u001b[2J\\u009b31m\\u202e[red]x[/red]\\u0007" in shown
