"""The process that holds the service's one socket and keeps one worker alive on it.

It stands in for the process manager that `bentoml serve` would start, which takes commands on a TCP port from anybody
on the machine and hands out the server's environment. This one takes no commands but signals: SIGTERM and SIGINT are
passed on, and it ends once the worker has finished its requests. A worker that dies is replaced at once; one that
cannot start the first time ends the server, with the worker's exit code.
"""

import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from errors import SetupError
from serving.worker import CHANNEL, LOADING, READY, REFUSED, complain

log = logging.getLogger(__name__)

_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT)
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0
_LOOK_AGAIN_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCommand:
    """How a worker is started on the service's socket."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    socket: socket.socket


class Supervisor:
    """Runs one worker after the other until a signal comes."""

    def __init__(self, command: WorkerCommand) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def run(self) -> int:
        """Returns the exit code of the whole: 0 after a signal, the worker's when it could not start the first time."""
        before = {number: signal.signal(number, self._stop) for number in _PASSED_ON}
        try:
            return self._run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self) -> int:
        was_ready = False
        failures = 0
        while True:
            life = self._one_worker(again=was_ready)
            if self._stopping:
                return 0
            if not life.ready and not was_ready:
                return life.exit_code
            was_ready = True
            failures = 0 if life.ready else failures + 1
            pause_s = min(_FIRST_PAUSE_S * 2 ** (failures - 1), _LONGEST_PAUSE_S) if failures else 0.0
            log.error("the worker %s; another is started %s", life.end, f"in {pause_s:g} s" if pause_s else "now")
            if not self._pause(pause_s):
                return 0

    def _one_worker(self, *, again: bool) -> "_Life":
        begun = time.monotonic()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = self._process = self._spawn(theirs)
            if self._stopping:  # the signal came before there was anything to pass it on to
                process.terminate()
            heard = _Heard.from_channel(ours, begun)
            if heard.ready_s is not None:
                log.info(
                    "the worker (pid %d) is ready%s: %.1f s to import, %.1f s to load",
                    process.pid,
                    " again" if again else "",
                    heard.imported_s or 0.0,
                    heard.ready_s - (heard.imported_s or 0.0),
                )
            code = process.wait()
        if heard.ready_s is None and not heard.refused and not self._stopping:
            complain(f"The worker ended before it was ready ({_ended(code)}).")
        return _Life(ready=heard.ready_s is not None, exit_code=128 - code if code < 0 else code or 1, end=_ended(code))

    def _spawn(self, channel: socket.socket) -> subprocess.Popen[bytes]:
        command = self._command
        return subprocess.Popen(
            command.arguments,
            cwd=command.folder,
            env={**command.environment, CHANNEL: str(channel.fileno())},
            pass_fds=(command.socket.fileno(), channel.fileno()),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us alone, and we pass on one signal
        )

    def _pause(self, seconds: float) -> bool:
        """Whether to go on."""
        until = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < until:
            time.sleep(_LOOK_AGAIN_S)
        return not self._stopping

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        if self._process is None:
            return
        self._process.send_signal(number)
        if self._process.poll() is None:  # once the worker takes nothing more, newcomers are refused, not left waiting
            self._command.socket.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Life:
    ready: bool
    exit_code: int
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """What a worker said of itself until it was ready or gone, in seconds since it was started."""

    imported_s: float | None = None
    ready_s: float | None = None
    refused: bool = False

    @classmethod
    def from_channel(cls, channel: socket.socket, begun: float) -> "_Heard":
        imported_s = None
        while said := channel.recv(1):
            at_s = time.monotonic() - begun
            if said == LOADING:
                imported_s = at_s
            elif said == READY:
                return cls(imported_s=imported_s, ready_s=at_s)
            elif said == REFUSED:
                return cls(refused=True)
        return cls()


def _ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


class Standin:
    """What BentoML gets where it asks for its process manager."""

    def __init__(self, watchers: Sequence[Any], sockets: Sequence[Any] = (), **options: Any) -> None:
        if options.get("plugins"):
            raise SetupError("--reload is not available: start the server again instead.")
        if len(watchers) != 1 or len(sockets) != 1 or watchers[0].numprocesses != 1:
            raise SetupError("One service with one worker is supervised; more of them are more replicas.")
        if options.get("threaded"):
            raise SetupError("The server is not started inside another program.")
        (self._watcher,), (self._socket,) = watchers, sockets
        self.exit_stack = ExitStack()  # BentoML puts here what is to be done at the end
        self.running = False

    @classmethod
    def for_bentoml(cls, *arguments: Any, **options: Any) -> "Standin":
        """As the constructor, but what is refused ends this process with one line."""
        try:
            return cls(*arguments, **options)
        except SetupError as error:
            complain(str(error))
            sys.exit(1)

    def start(self, cb: Callable[[Any], Any] | None = None) -> None:
        """Bind, run until the end, and leave with the exit code."""
        logging.getLogger("serving").setLevel(logging.INFO)
        with self.exit_stack, self._socket as bound:
            try:
                bound.bind((self._socket.host, self._socket.port))
            except OSError as error:
                complain(f"The server cannot listen on port {self._socket.port}: {error.strerror}.")
                sys.exit(1)
            bound.listen(self._socket.backlog)
            bound.setblocking(False)
            if cb is not None:
                cb(None)
            self.running = True
            code = Supervisor(self._command(bound)).run()
        self.running = False
        if code:
            sys.exit(code)

    def stop(self) -> None:
        """A signal does that."""

    def _command(self, bound: socket.socket) -> WorkerCommand:
        known = {f"$(circus.sockets.{self._socket.name})": str(bound.fileno()), "$(CIRCUS.WID)": "1"}
        arguments = [*shlex.split(self._watcher.cmd), *self._watcher.args]
        return WorkerCommand(
            arguments=[known.get(argument, argument) for argument in arguments],
            environment=dict(self._watcher.env or os.environ),
            folder=self._watcher.working_dir,
            socket=bound,
        )


def replace_process_manager() -> None:
    """From now on `bentoml serve` in this process runs our supervisor, and nothing can start the one it replaces.

    Raises SetupError when this BentoML does not have what is replaced.
    """
    if CHANNEL in os.environ:
        return  # a worker, which starts nothing and need not load what is replaced
    import circus.arbiter  # noqa: PLC0415
    from bentoml._internal.utils import circus as bentoml_circus  # noqa: PLC0415

    if not callable(getattr(bentoml_circus, "create_standalone_arbiter", None)) or not hasattr(
        circus.arbiter.Arbiter, "initialize"
    ):
        raise SetupError("This BentoML starts its workers in another way than the one that is supervised here.")
    bentoml_circus.create_standalone_arbiter = Standin.for_bentoml
    circus.arbiter.Arbiter.initialize = _refuse  # this is where it would open its ports


def _refuse(_arbiter: Any) -> None:
    raise SetupError("A process manager that takes commands from anybody on this machine is not started.")
