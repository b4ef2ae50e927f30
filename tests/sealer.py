"""A real sealer of its own for tests: `followup audit seal` in a process, with a key of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.server import ROOT


@dataclass
class Sealer:
    """Started with `start`, stopped with `stop`; may be killed and started again in between."""

    database_url: str  # as followup_sealer
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def key_file(self) -> Path:
        """Made at first need."""
        path = self.folder / "seal-key.pem"
        if not path.exists():
            subprocess.run([sys.executable, "-m", "cli", "audit", "new-key", str(path)], cwd=ROOT, check=True)
        return path

    def start(self) -> None:
        environment = {
            **os.environ,
            "SEALER_DATABASE_URL": self.database_url,
            "SEAL_KEY_FILE": str(self.key_file),
            **self.environment,
        }
        with (self.folder / "sealer.log").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", "audit", "seal"], cwd=ROOT, env=environment, stdout=output, stderr=output
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
