"""Anchors: in a folder and in a real S3 with Object Lock, where nothing is replaced or removed."""

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from audit.anchor import (
    AnchorConflict,
    AnchorFailed,
    AnchorThread,
    DirectoryAnchor,
    S3Anchor,
    anchor_newest,
    anchor_place,
)
from audit.sealing import Sealer, connect
from embedded.postgres import EmbeddedPostgres
from errors import SetupError
from tests.trail_rows import fill, make_signer

BUCKET = "anchors"


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 on loopback, with a bucket that locks its objects; its credentials are in the environment."""
    folder = tmp_path_factory.mktemp("s3")
    names = ("master", "volume", "filer", "s3")
    ports = free_ports(8)
    options = [f"-{name}.port={port}" for name, port in zip(names, ports[:4], strict=True)]
    options += [f"-{name}.port.grpc={port}" for name, port in zip(names, ports[4:], strict=True)]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # fixed ports, which two runs side by side would fight over
    identity = {
        "name": "t",
        "credentials": [{"accessKey": "test", "secretKey": "test"}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    assert weed is not None
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"-s3.config={folder / 's3.json'}", "-volume.max=5", "-master.volumeSizeLimitMB=16"],
            stdout=log,
            stderr=log,
        )
    endpoint = f"http://127.0.0.1:{ports[3]}"
    patch = pytest.MonkeyPatch()
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-east-1")):
        patch.setenv(f"AWS_{name}", value)
    try:
        client = boto3.client("s3", endpoint_url=endpoint)
        deadline = time.monotonic() + 60
        while True:
            try:
                client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
                break
            except (ClientError, BotoCoreError):
                assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
                time.sleep(0.5)
        yield endpoint
        client.close()
    finally:
        patch.undo()
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def test_a_folder_takes_each_size_once(tmp_path: Path) -> None:
    place = DirectoryAnchor(tmp_path)
    place.put(7, "note\n")
    place.put(7, "note\n")
    kept = tmp_path / "7.checkpoint"
    assert kept.read_text() == "note\n"
    assert kept.stat().st_mode & 0o777 == 0o444
    with pytest.raises(AnchorConflict):
        place.put(7, "another\n")
    assert kept.read_text() == "note\n"
    assert [path.name for path in tmp_path.iterdir()] == ["7.checkpoint"]
    with pytest.raises(AnchorFailed):
        DirectoryAnchor(tmp_path / "none").put(8, "note\n")


@pytest.mark.parametrize("text", ["dir:/none/there", "s3://", "ftp://x", "/anchors"])
def test_a_place_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SetupError):
        anchor_place(text)
    assert anchor_place("") is None


def test_s3_keeps_an_anchor_against_its_own_owner(s3: str) -> None:
    place = anchor_place(f"s3://{BUCKET}/log", endpoint=s3)
    assert isinstance(place, S3Anchor)
    place.put(9, "note\n")
    place.put(9, "note\n")
    with pytest.raises(AnchorConflict):
        place.put(9, "another\n")
    client: Any = boto3.client("s3", endpoint_url=s3)
    (version,) = client.list_object_versions(Bucket=BUCKET, Prefix="log/9.checkpoint")["Versions"]
    where = {"Bucket": BUCKET, "Key": "log/9.checkpoint", "VersionId": version["VersionId"]}
    retention = client.get_object_retention(**where)["Retention"]
    assert retention["Mode"] == "COMPLIANCE"
    assert retention["RetainUntilDate"] > datetime.now(UTC) + timedelta(days=6 * 365)
    for bypass in ({}, {"BypassGovernanceRetention": True}):
        with pytest.raises(ClientError, match="AccessDenied"):
            client.delete_object(**where, **bypass)
    sooner = {"Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(seconds=2)}
    with pytest.raises(ClientError):
        client.put_object_retention(**where, Retention=sooner)
    client.put_object(Bucket=BUCKET, Key="log/9.checkpoint", Body=b"forged")  # a new version beside the locked one
    assert client.get_object(**where)["Body"].read() == b"note\n"
    place.put(10, "later\n")
    client.delete_object(Bucket=BUCKET, Key="log/10.checkpoint")  # hides it only
    kept = list(place.newest_first())
    assert kept[0] == "later\n"
    assert sorted(kept[1:]) == ["forged", "note\n"]
    client.close()


def test_an_s3_that_is_away_is_a_failed_anchor(s3: str) -> None:
    (port,) = free_ports(1)
    with pytest.raises(AnchorFailed):
        S3Anchor(BUCKET, "", endpoint=f"http://127.0.0.1:{port}").put(1, "note\n")
    with pytest.raises(AnchorFailed):
        list(S3Anchor(BUCKET, "", endpoint=f"http://127.0.0.1:{port}").newest_first())
    with pytest.raises(AnchorFailed):
        S3Anchor("no-such-bucket", "", endpoint=s3).put(1, "note\n")


def test_the_newest_checkpoint_is_anchored_beside_sealing(
    postgres: EmbeddedPostgres, database_url: str, tmp_path: Path
) -> None:
    name = database_url.rpartition("/")[2].partition("?")[0]
    url = postgres.url("followup_sealer", name)
    fill(postgres.url("followup_app", name), 5, 5)
    folder = tmp_path / "anchors"
    folder.mkdir()
    stop = threading.Event()
    with connect(url) as connection:
        Sealer(connection, make_signer(tmp_path)).seal_all()
        thread = AnchorThread(url, DirectoryAnchor(folder), stop, every_s=60)
        thread.start()
        stop.set()
        thread.join(20)
        assert anchor_newest(connection, DirectoryAnchor(folder)) is None
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT tree_size, place FROM audit_anchors").fetchall() == [(10, f"dir:{folder}")]
        (note,) = connection.execute("SELECT note FROM audit_checkpoints").fetchone() or ("",)
    assert (folder / "10.checkpoint").read_text() == note
