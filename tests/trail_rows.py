"""Rows of the trail for tests, written as the server's role writes them."""

import os
import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from audit.checkpoint import Signer, new_key
from audit.record import created_at, new_id

NOBODY = uuid.UUID(int=0)


def id_of(when: datetime) -> uuid.UUID:
    """A UUIDv7 of that millisecond."""
    return uuid.UUID(int=round(when.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | random.getrandbits(62))


def _identity(changes: dict[str, Any]) -> uuid.UUID:
    """Of the time in `changes`, where there is one: the tables refuse others."""
    if "created_at" not in changes:
        return new_id()
    identity = id_of(changes["created_at"])
    changes["created_at"] = created_at(identity)
    return identity


def prediction(**changes: Any) -> dict[str, Any]:
    identity = _identity(changes)
    return {
        "created_at": created_at(identity),
        "id": identity,
        "request_id": uuid.uuid4(),
        "route": "/api/v1/ml/predict",
        "model_id": 1,
        "model_name": "clinical_ner",
        "model_version": "v1",
        "model_digest": "d" * 64,
        "variant": "champion",
        "principal": "clinician-1",
        "roles": "clinician",
        "client_id": "app",
        "patient_id": "patient-1",
        "purpose_of_use": "CAREMGT",
        "ip_address": "192.0.2.7",
        "user_agent": "test/1",
        "key_id": NOBODY,
        "input": os.urandom(60),
        "result": os.urandom(120),
        "confidence": random.choice([None, 0.87, 0.5]),
        "cache_hit": False,
        "inference_time_ms": round(random.random() * 10, 3),
        "latency_ms": round(random.random() * 10, 3),
        **changes,
    }


def event(**changes: Any) -> dict[str, Any]:
    identity = _identity(changes)
    return {
        "created_at": created_at(identity),
        "id": identity,
        "request_id": uuid.uuid4(),
        "action": "read predictions",
        "route": "/api/v1/ml/predictions/history",
        "status": 200,
        "outcome": "success",
        "principal": "clinician-1",
        "roles": "clinician",
        "client_id": "app",
        "patient_id": random.choice([None, "patient-1"]),
        "patients": random.choice([None, ["patient-1", "patient-2"]]),
        "target": random.choice([None, str(uuid.uuid4())]),
        "purpose_of_use": "CAREMGT",
        "ip_address": random.choice([None, "2001:db8::7"]),
        "user_agent": 'Tést \u2603 "quoted"\\',
        "key_id": random.choice([None, NOBODY]),
        "detail": random.choice([None, os.urandom(30)]),
        "latency_ms": 1.5,
        **changes,
    }


def insert(connection: psycopg.Connection[Any], table: str, rows: Sequence[dict[str, Any]]) -> None:
    """In the transaction of `connection`."""
    names = list(rows[0])
    places = ", ".join(f"%({name})s" for name in names)
    connection.cursor().executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})", rows)


def fill(database_url: str, predictions: int, events: int) -> None:
    """Rows in several transactions, both tables in each."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        while predictions or events:
            with connection.transaction():
                if now := min(predictions, random.randint(1, 20)):
                    insert(connection, "ml_predictions", [prediction() for _ in range(now)])
                    predictions -= now
                if now := min(events, random.randint(1, 20)):
                    insert(connection, "audit_events", [event() for _ in range(now)])
                    events -= now


def make_signer(folder: Any, name: str = "followup-test") -> Signer:
    path = folder / f"{uuid.uuid4().hex}.pem"
    new_key(path)
    return Signer.load(path, name)


def long_ago(**ago: float) -> datetime:
    return datetime.now(UTC) - timedelta(**ago)
