"""How fast the trail is sealed, exported and verified offline.

    python -m benchmarks.sealing [ROWS]

On an embedded PostgreSQL, rows of both tables of the usual size, one process; 20,000 unless said otherwise.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from audit.checkpoint import Signer, new_key
from audit.export import encode, export
from audit.sealing import Sealer, connect
from audit.verify import verify
from database.engine import open_engine
from database.migrate import upgrade
from embedded.postgres import EmbeddedPostgres

ROWS_A_COMMIT = 50
FILL = """
INSERT INTO ml_predictions (created_at, id, request_id, route, model_id, model_name, model_version, model_digest,
    variant, principal, roles, client_id, patient_id, purpose_of_use, ip_address, user_agent, key_id, input, result,
    confidence, cache_hit, inference_time_ms, latency_ms)
SELECT to_timestamp(ms / 1000.0),
    encode(decode(lpad(to_hex(ms), 12, '0'), 'hex') || substr(uuid_send(gen_random_uuid()), 7), 'hex')::uuid,
    gen_random_uuid(), '/api/v1/ml/predict', 1, 'clinical_ner', 'v1',
    repeat('d', 64), 'champion', gen_random_uuid()::text, 'clinician', 'app', gen_random_uuid()::text, 'CAREMGT',
    '192.0.2.7', 'benchmark/1', gen_random_uuid(), sha256(random()::text::bytea) || sha256('a'),
    decode(repeat(md5(random()::text), 40), 'hex'), random()::real, false, 3.25, 5.5
FROM (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms FROM generate_series(1, %s)) AS times
"""


def measure(home: Path, rows: int) -> Table:
    """Rows a second of each step."""
    postgres = EmbeddedPostgres(home)
    postgres.start()
    try:
        url = postgres.create_database("sealing")
        engine = open_engine(url)
        upgrade(engine)
        with psycopg.connect(url, autocommit=True) as connection:
            for _ in range(rows // ROWS_A_COMMIT):
                connection.execute(FILL, (ROWS_A_COMMIT,))
        new_key(home / "seal.pem")
        signer = Signer.load(home / "seal.pem", "followup-ml")
        table = Table("step", "rows", "s", "rows/s")

        def show(step: str, started: float) -> None:
            took = time.perf_counter() - started
            table.add_row(step, f"{rows:,}", f"{took:.2f}", f"{rows / took:,.0f}")

        with connect(postgres.url("followup_sealer", "sealing")) as connection:
            started = time.perf_counter()
            sealed = Sealer(connection, signer).seal_all()
            show("seal", started)
            assert sealed == rows

        def read(work: Any) -> Any:
            with engine.connect() as connection:
                return work(connection)

        started = time.perf_counter()
        file = home / "export"
        with file.open("wb") as output:
            output.writelines(map(encode, export(read, None)))
        show(f"export ({file.stat().st_size / rows:.0f} bytes a row)", started)
        started = time.perf_counter()
        with file.open("rb") as lines:
            report = verify(lines, str(signer.verifier))
        show("verify offline", started)
        assert report.holds
        assert report.leaves == rows
        engine.dispose()
        return table
    finally:
        postgres.stop()


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as home:
        Console().print(measure(Path(home), rows // ROWS_A_COMMIT * ROWS_A_COMMIT))


if __name__ == "__main__":
    main()
