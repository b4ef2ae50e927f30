"""The whole server in a network namespace that has loopback alone: all of it works, and nothing tries to leave (E1)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from access.dev_issuer import DevIssuer
from embedded.postgres import EmbeddedPostgres
from registry.store import StoredModel
from tests.server import ROOT, Server


def _unshare() -> list[str]:
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", "--net", *own, "--"]


@pytest.mark.requirement("E1")
def test_everything_works_and_no_packet_leaves(
    tmp_path: Path,
    postgres: EmbeddedPostgres,
    empty_database_url: str,
    valkey_socket: str,
    issuer: DevIssuer,
    ner_model: StoredModel,
    deterioration_model: StoredModel,
) -> None:
    if shutil.which("unshare") is None or subprocess.run([*_unshare(), "true"], check=False).returncode != 0:
        pytest.skip("network namespaces are off here")
    app = postgres.url_as("followup_app", empty_database_url)
    server = Server(empty_database_url, app, issuer, tmp_path / "server.log")
    server.register([ner_model, deterioration_model])
    given = {
        "owner": empty_database_url,
        "app": app,
        "issuer": str(issuer.jwks_file.parent),
        "log": str(tmp_path / "server.log"),
        "valkey": valkey_socket,
        "encryption_key": server.encryption_key,
    }
    command = [*_unshare(), sys.executable, "-m", "tests.without_a_network", json.dumps(given)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:] + Path(given["log"]).read_text()
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["statuses"] == [200] * len(seen["statuses"])
    assert seen["interfaces"] == ["lo"]
    assert not any(seen["tried_to_leave"].values()), seen["tried_to_leave"]
    assert seen["control"] == 1  # an attempt to leave is counted
    print(done.stdout)
