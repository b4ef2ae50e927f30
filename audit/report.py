"""What a week's log says (45 CFR 164.308(a)(1)(ii)(D)), and to whom a patient's records were shown (164.528).

Counts and identifiers only: nothing here needs a key of a patient.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from audit.verify import printable
from database.subjects import canonical_subject
from errors import SetupError

_WEEK: Final = re.compile(r"(\d{4})-W(\d{2})")
_DENIED: Final = frozenset({401, 403})
_DAY_BEGINS: Final = 6
_DAY_ENDS: Final = 22
_MOST_ACTIVE: Final = 10
_PURPOSES: Final[Mapping[str, str]] = {
    "CAREMGT": "care management",
    "BTG": "break-glass access",
    "PATRQT": "the patient's own request",
    "HOPERAT": "operation of the service",
    "HSYSADMIN": "administration of the service",
    "HCOMPL": "compliance review",
    "HQUALIMP": "improvement of models",
}

# What shows something about a patient to somebody; acts about a patient's access or records do not.
_SHOWING: Final = frozenset({"predict", "read predictions", "read audit", "read break-glass", "export audit"})
_SHOWN: Final = frozenset({"success", "replayed"})

Entry = Mapping[str, Any]


def week_bounds(week: str) -> tuple[datetime, datetime]:
    """Monday 00:00 UTC, and that of the week after. Raises SetupError unless it is an ISO 8601 week."""
    found = _WEEK.fullmatch(week)
    try:
        if found is None:
            raise ValueError
        monday = datetime.fromisocalendar(int(found[1]), int(found[2]), 1).replace(tzinfo=UTC)
    except ValueError as error:
        raise SetupError("A week is written as 2026-W48.") from error
    return monday, monday + timedelta(days=7)


def activity(week: str, entries: Iterable[Entry]) -> dict[str, Any]:
    """The review of one week from its entries of the log, in order."""
    counts: Counter[tuple[str, str, str]] = Counter()
    principals: Counter[str] = Counter()
    denials: Counter[tuple[str, str, int]] = Counter()
    night: Counter[str] = Counter()
    broken = []
    total = 0
    for entry in entries:
        total += 1
        at = entry["created_at"].astimezone(UTC)
        counts[entry["action"], entry["outcome"], entry["roles"]] += 1
        principals[entry["principal"]] += 1
        if entry["status"] in _DENIED:
            denials[entry["principal"], entry["action"], entry["status"]] += 1
        if not _DAY_BEGINS <= at.hour < _DAY_ENDS:
            night[entry["principal"]] += 1
        if "break" in entry["action"] or entry["purpose_of_use"] == "BTG":
            broken.append(
                {"at": _time(at), "principal": entry["principal"], "patient_id": entry["patient_id"]}
                | {"action": entry["action"], "outcome": entry["outcome"]}
            )
    begins, ends = week_bounds(week)
    return {
        "week": week,
        "from": _time(begins),
        "to": _time(ends),
        "total": total,
        "by_action": [
            {"action": action, "outcome": outcome, "roles": roles, "count": count}
            for (action, outcome, roles), count in sorted(counts.items())
        ],
        "denials": [
            {"principal": who, "action": action, "status": status, "count": count}
            for (who, action, status), count in sorted(denials.items(), key=lambda item: (-item[1], item[0]))
        ],
        "break_glass": broken,
        "outside_06_22_utc": _ranked(night),
        "most_active": _ranked(principals)[:_MOST_ACTIVE],
    }


def activity_markdown(review: Mapping[str, Any]) -> str:
    """The review for people, to be signed as a note."""
    lines = [
        f"# Activity review, week {review['week']}",
        "",
        f"{review['from']} to {review['to']}: {review['total']} accesses.",
    ]
    lines += _table("By action", review["by_action"], "action", "outcome", "roles", "count")
    lines += _table("Denials", review["denials"], "principal", "action", "status", "count")
    lines += _table("Break-glass", review["break_glass"], "at", "principal", "patient_id", "action", "outcome")
    lines += _table("Outside 06-22 UTC", review["outside_06_22_utc"], "principal", "count")
    lines += _table("Most active", review["most_active"], "principal", "count")
    return "\n".join(lines) + "\n"


def disclosures(patient_id: str, entries: Iterable[Entry]) -> list[dict[str, str]]:
    """Who but the patient was shown something about them: date, recipient, what, why. Six years back are owed."""
    patient = canonical_subject(patient_id)
    return [
        {
            "date": _time(entry["created_at"].astimezone(UTC)),
            "recipient": f"{entry['principal']} ({', '.join(entry['roles'].split())})",
            "what": f"{entry['action']} {entry['target']}" if entry["target"] else entry["action"],
            "why": _PURPOSES.get(entry["purpose_of_use"], entry["purpose_of_use"]),
        }
        for entry in entries
        if patient
        in {canonical_subject(named) for named in (entry["patient_id"], *(entry.get("patients") or ())) if named}
        if canonical_subject(entry["principal"]) != patient
        and entry["action"] in _SHOWING
        and entry["outcome"] in _SHOWN
    ]


def _ranked(counter: Counter[str]) -> list[dict[str, Any]]:
    ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    return [{"principal": principal, "count": count} for principal, count in ranked]


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _table(title: str, rows: Iterable[Mapping[str, Any]], *names: str) -> list[str]:
    shown = [f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in rows]
    if not shown:
        return ["", f"## {title}", "", "None."]
    return ["", f"## {title}", "", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *shown]


def _cell(value: Any) -> str:
    return "" if value is None else printable(str(value).replace("|", "\\|").replace("\n", " "))
