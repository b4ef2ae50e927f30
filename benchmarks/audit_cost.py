"""What the audit trail costs: the same server with its trail and with one that keeps nothing, in turns.

    python -m benchmarks.audit_cost --seconds 3 --rounds 3

The trail as it is: sealed with each patient's key, committed before the answer, and a sealer at work beside it.
"""

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from access.dev_issuer import DevIssuer, demo_subject
from benchmarks.side_by_side import Side, champions, measure, note, week
from embedded.postgres import EmbeddedPostgres
from embedded.valkey import EmbeddedValkey
from tests.sealer import Sealer
from tests.server import BASE, Server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=140)
    with ExitStack() as stack:
        models = champions(stack)
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres, valkey = EmbeddedPostgres(home), EmbeddedValkey(home)
        postgres.start()
        stack.callback(postgres.stop)
        socket_path = valkey.start()
        stack.callback(valkey.stop)
        issuer = DevIssuer(home / "issuer")
        headers = {"Authorization": f"Bearer {issuer.token(['clinician'], demo_subject('clinician'))}"}
        sides: dict[str, list[Side]] = {"deterioration": [], "ner": []}
        for name, service in (("no trail", "benchmarks.unaudited_service"), ("trail", "service")):
            database = postgres.create_database(name.replace(" ", "_"))
            environment = {"REDIS_SOCKET": socket_path, "QUOTA_PER_MINUTE": "0"}
            app = postgres.url_as("followup_app", database)
            server = Server(database, app, issuer, home / f"{name}.log", environment, service=service)
            server.register(models)
            server.start()
            stack.callback(server.stop)
            assert server.process is not None
            common: dict[str, Any] = {"port": server.port, "headers": headers, "process_id": server.process.pid}
            sides["deterioration"].append(Side(name, path=f"{BASE}/predict/deterioration", body=week, **common))
            sides["ner"].append(Side(name, path=f"{BASE}/predict/symptom-analysis", body=note, **common))
        sealer = Sealer(postgres.url_as("followup_sealer", database), home)
        sealer.start()
        stack.callback(sealer.stop)
        with console.status("Measuring"):
            table = measure(sides, seconds=options.seconds, rounds=options.rounds)
        console.print(table)


if __name__ == "__main__":
    main()
