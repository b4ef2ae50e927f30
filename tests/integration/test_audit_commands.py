"""`followup audit …` from a key to a verified export, with the sealer as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from access.dev_issuer import CLIENT_ID, ISSUER, DevIssuer
from audit.checkpoint import Verifier
from audit.key_encryption import new_root_key
from embedded.postgres import EmbeddedPostgres
from tests.trail_rows import fill

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.requirement("S6")
@pytest.mark.requirement("S12")
def test_from_a_key_to_a_verified_export(
    postgres: EmbeddedPostgres, database_url: str, tmp_path: Path, issuer: DevIssuer
) -> None:
    name = database_url.rpartition("/")[2].partition("?")[0]
    key_file, anchors, file = tmp_path / "seal.pem", tmp_path / "anchors", tmp_path / "trail.ndjson"
    anchors.mkdir()
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "SEALER_DATABASE_URL": postgres.url("followup_sealer", name),
        "SEAL_KEY_FILE": str(key_file),
        "AUDIT_SEAL_EVERY_MS": "50",
        "AUDIT_ANCHOR": f"dir:{anchors}",
        "AUDIT_ANCHOR_EVERY_S": "0.2",
        "ENCRYPTION_KEY": new_root_key(),
        "COGNITO_ISSUER": ISSUER,
        "COGNITO_CLIENT_IDS": CLIENT_ID,
        "COGNITO_JWKS_FILE": str(issuer.jwks_file),
        "FOLLOWUP_TOKEN": issuer.token(["admin", "auditor"], "ann"),
    }

    def followup(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli", "audit", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    key = followup("new-key", key_file).stdout.strip()
    assert key.startswith("followup-ml+")
    assert followup("new-key", key_file).returncode == 1
    sealer = subprocess.Popen(
        [sys.executable, "-m", "cli", "audit", "seal"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        fill(postgres.url("followup_app", name), 30, 30)
        deadline = time.monotonic() + 20
        with psycopg.connect(database_url, autocommit=True) as connection:
            while connection.execute("SELECT count(*) FROM audit_leaves").fetchone() != (60,):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            row = connection.execute("SELECT id FROM ml_predictions LIMIT 1").fetchone()
        sealer.send_signal(signal.SIGTERM)
        _, complaints = sealer.communicate(timeout=20)
        assert (sealer.returncode, complaints) == (0, "")
    finally:
        sealer.kill()
        sealer.wait(10)
    assert (anchors / "60.checkpoint").exists()
    done = followup("export", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert file.stat().st_mode & 0o777 == 0o600
    verified = followup("verify", file, "--key", key, "--anchors", anchors)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "60 sealed records" in verified.stdout
    assert followup("verify", file, "--json").returncode == 3  # nobody said whose key it is
    file.write_bytes(file.read_bytes().replace(b'"status":200', b'"status":201', 1))
    assert followup("verify", file, "--key", key).returncode == 1
    assert row is not None
    proof = followup("prove", str(row[0])).stdout
    assert json.loads(proof)["tree_size"] == 60
    (tmp_path / "proof.json").write_text(proof)
    assert followup("verify", tmp_path / "proof.json", "--key", key, "--anchors", anchors).returncode == 0
    assert followup("prove", "nonsense").returncode == 1
    assert followup("hold", "patient-1", "--reason", "a lawsuit").returncode == 0
    assert followup("release", "patient-1").returncode == 0
    assert followup("release", "patient-1").returncode == 1
    year, week, _ = datetime.now(UTC).isocalendar()
    signed = followup("report", "--week", f"{year}-W{week:02d}").stdout
    assert Verifier.parse(key).open(signed).startswith("# Activity review")
    assert json.loads(followup("report", "--week", f"{year}-W{week:02d}", "--json").stdout)["total"] == 66
    assert len(json.loads(followup("disclosures", "patient-1", "--json").stdout)) >= 30
    early = followup("archive", "--before", f"{year}-01", "--to", tmp_path)
    assert (early.returncode, "6 years" in early.stderr) == (1, True)
    assert followup("export", "--fhir", file).returncode == 0
    assert len(file.read_text().splitlines()) == 68
    query = "SELECT action, target, patient_id FROM audit_events WHERE action LIKE '%% audit' AND principal = %s"
    with psycopg.connect(database_url) as connection:
        on_record = connection.execute(f"{query} ORDER BY created_at", ("ann",)).fetchall()
    assert on_record == [
        ("export audit", "sealed", None),
        ("verify audit", str(row[0]), None),
        ("read audit", f"activity of {year}-W{week:02d}", None),
        ("read audit", f"activity of {year}-W{week:02d}", None),
        ("read audit", "disclosures", "patient-1"),
        ("export audit", "fhir", None),
    ]
    for token in (issuer.token(["admin"], "bob"), "nonsense", ""):
        environment["FOLLOWUP_TOKEN"] = token
        file.unlink(missing_ok=True)
        shown = ["prove", str(row[0])], ["report", "--week", f"{year}-W{week:02d}"], ["disclosures", "patient-1"]
        for arguments in (["export", str(file)], *shown):
            refused = followup(*arguments)
            assert (refused.returncode, refused.stdout) == (1, ""), arguments
            assert "FOLLOWUP_TOKEN" in refused.stderr
        assert not file.exists()
    environment["FOLLOWUP_TOKEN"] = issuer.token(["auditor"], "ann")
    (tmp_path / "folder").mkdir()
    for command in ("export", "research-export"):
        for unusable in (tmp_path / "nowhere" / "x", tmp_path / "folder"):
            refused = followup(command, unusable)
            assert refused.returncode == 1
            assert len(refused.stderr.splitlines()) == 1, refused.stderr
    assert list(tmp_path.glob(".*")) == list((tmp_path / "folder").iterdir()) == []
