"""The log as FHIR R4 AuditEvent, coded like IHE's Basic Audit Log Patterns. No profile is claimed."""

import re
from collections.abc import Mapping
from datetime import UTC
from typing import Any, Final

_TERMS: Final = "http://terminology.hl7.org/CodeSystem"
_REST: Final = "http://hl7.org/fhir/restful-interaction"
_FHIR_ID: Final = re.compile(r"[A-Za-z0-9\-.]{1,64}")
# First word of an action: FHIR's letter for it, and its RESTful interaction.
_INTERACTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "predict": ("E", "operation"),
    "read": ("R", "read"),
    "list": ("R", "search-type"),
    "export": ("R", "search-type"),
    "verify": ("R", "read"),
    "erase": ("D", "delete"),
    "delete": ("D", "delete"),
    "revoke": ("U", "update"),
    "change": ("U", "update"),
}


def audit_event(entry: Mapping[str, Any], observer: str = "followup-ml") -> dict[str, Any]:
    """One entry of the log as an AuditEvent resource."""
    letter, interaction = _INTERACTIONS.get(entry["action"].split(" ")[0], ("E", "operation"))
    return {
        "resourceType": "AuditEvent",
        "id": str(entry["id"]),
        "type": _coding(f"{_TERMS}/audit-event-type", "rest", "RESTful Operation"),
        "subtype": [_coding(_REST, interaction, entry["action"])],
        "action": letter,
        "recorded": entry["created_at"].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "outcome": _outcome(entry["status"]),
        "outcomeDesc": entry["outcome"],
        "purposeOfEvent": [{"coding": [_coding(f"{_TERMS}/v3-ActReason", entry["purpose_of_use"])]}],
        "agent": [_agent(entry)],
        "source": {
            "observer": {"display": observer},
            "type": [_coding(f"{_TERMS}/security-source-type", "4", "Application Server")],
        },
        "entity": _entities(entry),
    }


def _coding(system: str, code: str, display: str | None = None) -> dict[str, str]:
    return {"system": system, "code": code, **({"display": display} if display else {})}


def _outcome(status: int) -> str:
    if status < 400:
        return "0"
    return "4" if status < 500 else "8"


def _agent(entry: Mapping[str, Any]) -> dict[str, Any]:
    agent: dict[str, Any] = {
        "type": {"coding": [_coding(f"{_TERMS}/v3-ParticipationType", "IRCP", "information recipient")]},
        "who": {"identifier": {"value": entry["principal"]}},
        "requestor": True,
    }
    if roles := entry["roles"].split():
        agent["role"] = [{"text": role} for role in roles]
    if entry["ip_address"] is not None:
        agent["network"] = {"address": entry["ip_address"], "type": "2"}
    return agent


def _entities(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    entities = [
        {
            "what": {"identifier": {"value": str(entry["request_id"])}},
            "type": _coding("https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType", "XrequestId"),
        }
    ]
    for patient in [entry["patient_id"]] if entry["patient_id"] is not None else entry.get("patients") or ():
        if patient is None:
            continue  # in rows from before that was refused
        what: dict[str, Any] = {"identifier": {"value": patient}}
        if _FHIR_ID.fullmatch(patient):
            what["reference"] = f"Patient/{patient}"
        entities.append(
            {
                "what": what,
                "type": _coding(f"{_TERMS}/audit-entity-type", "1", "Person"),
                "role": _coding(f"{_TERMS}/object-role", "1", "Patient"),
            }
        )
    if (target := entry["target"]) is not None:
        entities.append(
            {
                "what": {"identifier": {"value": target}},
                "type": _coding(f"{_TERMS}/audit-entity-type", "2", "System Object"),
                "role": _coding(f"{_TERMS}/object-role", "4", "Domain Resource"),
            }
        )
    return entities
