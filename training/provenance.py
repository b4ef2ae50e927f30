"""Which code made a model, and what the making cost."""

import hashlib
import resource
import subprocess
import time
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path(__file__).resolve().parent.parent
_ROOMS: Final = ("training", "clinical")


def revision() -> str:
    """The code's git revision, or "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def code_sha256() -> str:
    """SHA-256 over the names and contents of all code that has a say in what comes out of training."""
    total = hashlib.sha256()
    for path in sorted(path for room in _ROOMS for path in (_ROOT / room).rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{content}  {path.relative_to(_ROOT).as_posix()}\n".encode())
    return total.hexdigest()


def cost_since(started: float) -> dict[str, Any]:
    """Minutes since `started` (time.monotonic()) and the process's peak memory so far, in MiB."""
    return {
        "minutes": round((time.monotonic() - started) / 60, 2),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
