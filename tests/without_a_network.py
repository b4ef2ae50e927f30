"""What test_no_packet_leaves runs inside a network namespace of its own: `python -m tests.without_a_network JSON`."""

import fcntl
import json
import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

import httpx

from access.dev_issuer import DevIssuer
from tests.conftest import bearer
from tests.server import BASE, Server

_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x41
DAY = {"pain_score_facial": 3, "pain_score_self_reported": 3, "respiratory_rate": 15, "symptom_severity_score": 3}


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP_AND_RUNNING))


def without_route() -> dict[str, int]:
    """Packets for which the kernel had no way out, since this namespace began, by protocol."""
    lines = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:")]
    found = {"IPv4": int(lines[1][lines[0].index("OutNoRoutes")])}
    for line in Path("/proc/net/snmp6").read_text().splitlines():
        if line.startswith("Ip6OutNoRoutes"):
            found["IPv6"] = int(line.split()[1])
    return found


def ask(server: Server, issuer: DevIssuer) -> list[int]:
    note = {"text": "Patient reports severe headache and nausea for 3 days", "analysis_type": "symptom_ner"}
    statuses = []
    with httpx.Client(base_url=server.url + BASE, headers=bearer(issuer, "clinician"), timeout=30) as client:
        for path, body in (
            ("/predict/symptom-analysis", note),
            ("/predict/symptom-analysis", note),
            ("/predict", {"model_name": "clinical_ner", "input_data": {"text": "Patient has fever and cough"}}),
            ("/predict/deterioration", {"measurements": [DAY] * 7}),
            ("/predict/batch", {"model_name": "clinical_ner", "items": [{"id": "a", "input_data": {"text": "rash"}}]}),
        ):
            statuses.append(client.post(path, json=body).status_code)
        for path in ("/models", "/models/clinical_ner", "/predictions/history", "/stats", "/openapi.json"):
            statuses.append(client.get(path).status_code)
        statuses.append(client.get(f"{server.url}/readyz").status_code)
    return statuses


def main() -> None:
    given = json.loads(sys.argv[1])
    loopback_up()
    issuer = DevIssuer(Path(given["issuer"]))
    server = Server(
        given["owner"],
        given["app"],
        issuer,
        Path(given["log"]),
        {"REDIS_SOCKET": given["valkey"]},
        encryption_key=given["encryption_key"],
    )
    os.environ.pop("ORT_DISABLE_TELEMETRY", None)  # the server must see to that itself
    server.start()
    statuses = ask(server, issuer)
    server.stop()
    tried = without_route()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stray, suppress(OSError):
        stray.sendto(b"x", ("192.0.2.1", 9))  # a documentation address: there is no way to it from here
    interfaces = [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines() if ":" in line]
    control = without_route()["IPv4"] - tried["IPv4"]
    print(json.dumps({"statuses": statuses, "interfaces": interfaces, "tried_to_leave": tried, "control": control}))


if __name__ == "__main__":
    main()
