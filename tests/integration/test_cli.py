"""The command line against a real database."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from access.dev_issuer import CLIENT_ID, ISSUER, DevIssuer
from audit.key_encryption import new_root_key
from registry.store import StoredModel
from settings import Settings
from tests.server import ROOT


def followup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing of our settings in its environment but what is given."""
    names = {name.upper() for name in Settings.model_fields}
    clean = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in names}
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT,
        env={**clean, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def production(database_url: str, issuer: DevIssuer) -> dict[str, str]:
    """The environment of somebody who runs commands beside a real server."""
    return {
        "OWNER_DATABASE_URL": database_url,
        "DATABASE_URL": database_url,
        "ENCRYPTION_KEY": new_root_key(),
        "COGNITO_ISSUER": ISSUER,
        "COGNITO_CLIENT_IDS": CLIENT_ID,
        "COGNITO_JWKS_FILE": str(issuer.jwks_file),
    }


@pytest.mark.requirement("P4")
def test_a_model_is_registered_approved_and_promoted_by_two_people(
    production: dict[str, str], issuer: DevIssuer, deterioration_model: StoredModel
) -> None:
    tag = deterioration_model.tag

    def acting(who: str, *arguments: str, role: str) -> subprocess.CompletedProcess[str]:
        return followup("models", *arguments, **production, FOLLOWUP_TOKEN=issuer.token([role], who))

    assert acting("ann", "register", tag, role="approver").returncode == 1
    assert acting("ann", "register", tag, role="ml-engineer").returncode == 0
    (listed,) = json.loads(followup("models", "list", "--json", **production).stdout)
    name, digest = "deterioration_lstm", deterioration_model.digest
    assert (listed["name"], listed["alias"], listed["digest"]) == (name, None, digest)
    assert "not approved" in acting("bob", "promote", tag, role="approver").stderr
    assert "their own" in acting("ann", "approve", tag, role="approver").stderr
    assert "FOLLOWUP_TOKEN" in followup("models", "approve", tag, **production).stderr
    assert acting("bob", "approve", tag, "--comment", "read the card", role="approver").returncode == 0
    assert acting("bob", "promote", tag, "--override", "a test", role="approver").returncode == 0
    assert "champion" in followup("models", "list", **production).stdout
    signed = json.loads(acting("eve", "signatures", tag, "--json", role="auditor").stdout)
    acts = [(act["meaning"], act["signer"], act["valid"]) for act in signed]
    assert acts == [("registered", "ann", True), ("approved", "bob", True), ("promoted", "bob", True)]
    with psycopg.connect(production["OWNER_DATABASE_URL"]) as connection:
        events = connection.execute("SELECT action, principal, target FROM audit_events ORDER BY id").fetchall()
    assert events == [("register model", "ann", tag), ("approve model", "bob", tag), ("promote model", "bob", tag)]
    shown = json.loads(followup("models", "show", tag, "--json", **production).stdout)
    assert shown["metrics"]["auroc"] > 0.5
    assert len(followup("models", "show", tag, **production).stdout) > 500


@pytest.mark.parametrize(
    "arguments",
    [
        ("models", "promote", "none:v1"),
        ("models", "show", "none:v1"),
        ("models", "register", "none:v1"),
        ("train", "deterioration"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_said_in_one_line(
    production: dict[str, str], issuer: DevIssuer, arguments: tuple[str, ...]
) -> None:
    token = issuer.token(["ml-engineer", "approver"], "ann")
    done = followup(*arguments, **production, FOLLOWUP_TOKEN=token)
    assert done.returncode == 1
    *progress, said = done.stderr.strip().splitlines()
    assert said.startswith("followup: ")
    assert progress == (["reading measurements"] if arguments[0] == "train" else [])
    assert "Traceback" not in done.stderr


def test_training_on_an_empty_table_says_what_is_missing(production: dict[str, str], issuer: DevIssuer) -> None:
    done = followup("train", "deterioration", **production, FOLLOWUP_TOKEN=issuer.token(["ml-engineer"], "ann"))
    assert "50" in done.stderr
    assert "14 measured days" in done.stderr


def test_a_database_that_is_no_postgresql_or_not_there_is_refused_without_its_password() -> None:
    for url in ("sqlite:///x.db", "not a url", "postgresql://u:SECRET@127.0.0.1:1/d"):
        done = followup("models", "list", DATABASE_URL=url)
        assert done.returncode == 1
        assert "SECRET" not in done.stderr + done.stdout
        assert "Traceback" not in done.stderr


def test_serving_for_real_names_every_missing_setting() -> None:
    done = followup("serve")
    assert done.returncode == 1
    for name in ("DATABASE_URL", "ENCRYPTION_KEY", "COGNITO_ISSUER", "COGNITO_CLIENT_IDS"):
        assert name in done.stderr


def test_a_token_needs_a_known_role_and_a_demo(tmp_path: Path) -> None:
    assert "no demo" in followup("token", "--role", "clinician", FOLLOWUP_HOME=str(tmp_path / "none")).stderr
    assert "no role" in followup("token", "--role", "surgeon", FOLLOWUP_HOME=str(tmp_path)).stderr


def test_demo_data_is_never_mixed_with_real_rows(database_url: str) -> None:
    import psycopg

    from database.engine import libpq_url

    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        connection.execute("INSERT INTO patient_measurements VALUES ('real-person', CURRENT_DATE, 1, 1, 16, 1)")
        for arguments in (["demo-data"], ["demo-data", "--replace"]):
            assert followup(*arguments, DATABASE_URL=database_url).returncode == 1
        assert connection.execute("SELECT count(*) FROM patient_measurements").fetchone() == (1,)


@pytest.mark.requirement("S4")
def test_keys_are_rotated_and_a_patient_is_erased_under_an_administrators_name(
    production: dict[str, str], issuer: DevIssuer
) -> None:
    new_key = new_root_key()
    with psycopg.connect(production["OWNER_DATABASE_URL"], autocommit=True) as connection:
        acting = {**production, "FOLLOWUP_TOKEN": issuer.token(["admin"], "ann")}
        assert followup("keys", "status", **acting).returncode == 0
        assert "no key of this patient" in followup("keys", "erase", "p-1", **acting).stdout
        rotating = {**acting, "ENCRYPTION_KEY": new_key, "ENCRYPTION_KEYS_OLD": production["ENCRYPTION_KEY"]}
        assert "1 keys wrapped anew" in followup("keys", "rotate", **rotating).stdout
        assert followup("keys", "rotate", **acting).returncode == 1  # the old key alone opens nothing any more
        assert followup("keys", "erase", "p-1", **{**acting, "ENCRYPTION_KEY": new_key}).returncode == 0
        clinician = {**acting, "ENCRYPTION_KEY": new_key, "FOLLOWUP_TOKEN": issuer.token(["clinician"], "bob")}
        refused = followup("keys", "erase", "p-1", **clinician)
        assert (refused.returncode, "role admin" in refused.stderr) == (1, True)
        events = connection.execute("SELECT action, principal, patient_id FROM audit_events ORDER BY id").fetchall()
    assert events == [("erase", "ann", "p-1"), ("rotate keys", "ann", None), ("erase", "ann", "p-1")]
