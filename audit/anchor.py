"""Checkpoints put where the database's administrator cannot reach: another mount, or S3 with Object Lock.

Whoever owns the database can rewrite the whole tree, but not what was anchored: the next verification shows it. What
came after the last anchor is not protected by it.
"""

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, LiteralString, Protocol

import psycopg
from psycopg import Connection

from audit.checkpoint import BadNote, Verifier
from errors import SetupError

log = logging.getLogger(__name__)

RETENTION: Final = timedelta(days=6 * 365 + 2)
_NEWEST: Final[LiteralString] = """
SELECT c.tree_size, c.note FROM audit_checkpoints AS c
WHERE c.tree_size = (SELECT max(tree_size) FROM audit_checkpoints)
  AND NOT EXISTS (SELECT FROM audit_anchors AS a WHERE a.tree_size = c.tree_size AND a.place = %s)
"""


class AnchorFailed(Exception):
    """The checkpoint could not be put there."""


class AnchorConflict(AnchorFailed):
    """There is another checkpoint of the same size already: one of the two trees is false."""


class AnchorPlace(Protocol):
    """Where anchors go. Nothing that is there is ever replaced."""

    @property
    def name(self) -> str:
        """The place as audit_anchors has it."""
        ...

    def put(self, size: int, note: str) -> None:
        """Keep the checkpoint; fine when the very same is there already. Raises AnchorFailed."""
        ...

    def newest_first(self) -> Iterator[str]:
        """What is kept there, from the largest tree down. Raises AnchorFailed."""
        ...


class DirectoryAnchor:
    """A folder, on another mount than the database's if it is to be of use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = f"dir:{folder}"

    def put(self, size: int, note: str) -> None:
        target = self._folder / f"{size}.checkpoint"
        part = self._folder / f".{size}.{os.getpid()}"
        try:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444), "wb") as file:
                file.write(note.encode())
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(part, target)  # unlike a rename, this never replaces what is there
            except FileExistsError:
                if target.read_bytes() != note.encode():
                    raise AnchorConflict from None
            finally:
                part.unlink()
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise AnchorFailed from error

    def newest_first(self) -> Iterator[str]:
        try:
            for size in sorted(_sizes(path.name for path in self._folder.iterdir()), reverse=True):
                yield (self._folder / f"{size}.checkpoint").read_bytes().decode("utf-8", "replace")
        except OSError as error:
            raise AnchorFailed from error


class S3Anchor:
    """A bucket with Object Lock: each anchor is kept in COMPLIANCE mode, which not even its owner can shorten."""

    def __init__(self, bucket: str, prefix: str, *, endpoint: str = "", retention: timedelta = RETENTION) -> None:
        try:
            import boto3  # noqa: PLC0415 - an extra, needed only here
            from botocore.config import Config  # noqa: PLC0415
        except ImportError as error:
            raise SetupError("AUDIT_ANCHOR names S3: install followup-ml[aws].") from error
        config = Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 2})
        self._client: Any = boto3.client("s3", endpoint_url=endpoint or None, config=config)
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._retention = retention
        self.name = f"s3://{bucket}/{self._prefix}"

    def put(self, size: int, note: str) -> None:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        key = f"{self._prefix}{size}.checkpoint"
        try:
            try:
                kept = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] not in {"NoSuchKey", "404"}:
                    raise
            else:
                if kept != note.encode():
                    raise AnchorConflict
                return
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=note.encode(),
                ContentType="text/plain; charset=utf-8",
                ObjectLockMode="COMPLIANCE",
                ObjectLockRetainUntilDate=datetime.now(UTC) + self._retention,
                ChecksumAlgorithm="SHA256",
            )
        except (BotoCoreError, ClientError, OSError) as error:
            raise AnchorFailed from error

    def newest_first(self) -> Iterator[str]:
        """Every version: a later one may cover the locked one, or a marker say that it is deleted."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            versions: dict[int, list[str]] = {}
            pages = self._client.get_paginator("list_object_versions").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            for page in pages:
                for version in page.get("Versions", ()):
                    for size in _sizes([version["Key"].removeprefix(self._prefix)]):
                        versions.setdefault(size, []).append(version["VersionId"])
            for size in sorted(versions, reverse=True):
                for version_id in reversed(versions[size]):
                    where = {"Bucket": self._bucket, "Key": f"{self._prefix}{size}.checkpoint", "VersionId": version_id}
                    yield self._client.get_object(**where)["Body"].read().decode("utf-8", "replace")
        except (BotoCoreError, ClientError, OSError) as error:
            raise AnchorFailed from error


def _sizes(names: Iterable[str]) -> Iterator[int]:
    for name in names:
        if found := re.fullmatch(r"([1-9][0-9]{0,18})\.checkpoint", name):
            yield int(found[1])


def anchor_place(text: str, *, endpoint: str = "") -> AnchorPlace | None:
    """The place that AUDIT_ANCHOR names, None for none. Raises SetupError."""
    if not text:
        return None
    if text.startswith("dir:"):
        folder = Path(text.removeprefix("dir:"))
        if not folder.is_dir():
            raise SetupError("AUDIT_ANCHOR names a folder that is not there.")
        return DirectoryAnchor(folder)
    if text.startswith("s3://"):
        bucket, _, prefix = text.removeprefix("s3://").partition("/")
        if bucket:
            return S3Anchor(bucket, prefix, endpoint=endpoint)
    raise SetupError("AUDIT_ANCHOR must be dir:/path or s3://bucket/prefix.")


def anchor_newest(connection: Connection[Any], place: AnchorPlace, verifier: Verifier | None = None) -> int | None:
    """Anchor the newest checkpoint, unless it is anchored. Returns its size.

    Raises AnchorFailed, psycopg.Error, and BadNote when it is not signed: nobody gets that out of the place again.
    """
    found = connection.execute(_NEWEST, (place.name,)).fetchone()
    if found is None:
        return None
    size, note = found
    if verifier is not None and verifier.checkpoint(note).size != size:
        raise BadNote
    place.put(size, note)
    connection.execute(
        "INSERT INTO audit_anchors (tree_size, place) VALUES (%s, %s) ON CONFLICT DO NOTHING", (size, place.name)
    )
    return int(size)


class AnchorThread(threading.Thread):
    """Anchors beside the sealer, on a connection of its own: a place that hangs must not hold up sealing."""

    def __init__(
        self,
        database_url: str,
        place: AnchorPlace,
        stop: threading.Event,
        *,
        every_s: float,
        verifier: Verifier | None = None,
    ) -> None:
        super().__init__(name="anchor", daemon=True)
        self._database_url = database_url
        self._place = place
        self._stop_event = stop
        self._every_s = every_s
        self._verifier = verifier

    def run(self) -> None:
        while True:
            self._once()
            if self._stop_event.wait(self._every_s):
                self._once()  # what was sealed last
                return

    def _once(self) -> None:
        try:
            with psycopg.connect(self._database_url, autocommit=True, connect_timeout=3) as connection:
                anchor_newest(connection, self._place, self._verifier)
        except BadNote:
            log.error("anchor: the newest checkpoint is not signed with this sealer's key; it is not anchored")
        except AnchorConflict:
            log.error("anchor: another checkpoint of this size is anchored already; one of both is false or restored")
        except (AnchorFailed, psycopg.Error, OSError) as error:
            log.error("anchor: not done (%s), tried again later", type(error.__cause__ or error).__name__)
