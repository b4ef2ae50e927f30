"""What was signed last, kept outside the database: a log that was put back must not be signed as if it were whole."""

import logging
import os
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from audit.anchor import AnchorFailed, AnchorPlace
from audit.checkpoint import BadNote, Checkpoint, Verifier
from errors import SetupError

log = logging.getLogger(__name__)


class LastSigned:
    """The checkpoint that was signed last, in memory and in a file beside the key; and the newest that was anchored.

    The file is written after the commit: whatever dies when, the tree may be ahead of it and never behind.
    """

    def __init__(self, verifier: Verifier, file: Path | None = None) -> None:
        """Raises SetupError when the file cannot be used, or holds something else than a checkpoint of this key."""
        self._file = file
        self.unproven: list[Checkpoint] = []  # what the stored tree must begin with, before anything is signed
        self.newest: Checkpoint | None = None
        self._older: Iterator[Checkpoint] = iter(())
        if file is None:
            return
        try:
            note = file.read_text(encoding="utf-8") if file.exists() else None
            if note is not None:
                self.unproven.append(verifier.checkpoint(note))
            if not os.access(file.parent, os.W_OK | os.X_OK):
                raise OSError
        except BadNote as error:
            raise SetupError("SEAL_STATE_FILE holds no checkpoint that is signed with this sealer's key.") from error
        except (OSError, ValueError) as error:
            raise SetupError("SEAL_STATE_FILE cannot be read or its folder not be written to.") from error

    def recall(self, verifier: Verifier, place: AnchorPlace) -> None:
        """The newest signed anchor counts too; others may have been put there by anybody."""
        self._older = _signed_anchors(verifier, place)
        if (newest := self.older_anchor()) is not None:
            self.unproven.append(newest)

    def older_anchor(self) -> Checkpoint | None:
        """The next one down: wanted where those above it were lost with what a restored database lacks."""
        return next(self._older, None)

    def everything(self, above: int) -> list[Checkpoint]:
        """All that is known to have been signed; of the anchors, those of more than `above` leaves."""
        return [*self.unproven, *takewhile(lambda anchor: anchor.size > above, self._older)]

    def keep(self, checkpoint: Checkpoint, note: str) -> None:
        """After the commit."""
        self.newest = checkpoint
        if self._file is None:
            return
        part = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
                output.write(note.encode())
                output.flush()
                os.fsync(output.fileno())
            part.replace(self._file)
            folder = os.open(self._file.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            # Memory knows it as long as the process lives, and the next pass writes it again.
            log.error("sealer: SEAL_STATE_FILE was not written (%s)", type(error).__name__)


def _signed_anchors(verifier: Verifier, place: AnchorPlace) -> Iterator[Checkpoint]:
    try:
        for note in place.newest_first():
            try:
                yield verifier.checkpoint(note)
            except BadNote:
                log.error("sealer: an anchor is not signed with this sealer's key")
    except AnchorFailed as error:
        log.error("sealer: anchors cannot be read (%s), so nothing is known from them", type(error.__cause__).__name__)
