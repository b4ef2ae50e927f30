"""What stands in for BentoML's process manager, and what a start that fails says."""

import inspect
import socket
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from errors import AuditUnavailable, SetupError
from serving.supervisor import Standin, replace_process_manager
from serving.worker import Start, explanation


def test_bentoml_asks_for_its_process_manager_where_it_is_replaced() -> None:
    from _bentoml_impl.server import serving
    from bentoml._internal.utils import circus as of_bentoml

    assert "import create_standalone_arbiter" in inspect.getsource(serving.serve_http)
    assert "arbiter.start(" in inspect.getsource(serving.serve_http)
    replace_process_manager()
    assert of_bentoml.create_standalone_arbiter == Standin.for_bentoml


def test_a_bentoml_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from bentoml._internal.utils import circus as of_bentoml

    monkeypatch.delattr(of_bentoml, "create_standalone_arbiter")
    with pytest.raises(SetupError, match="another way"):
        replace_process_manager()


def test_the_replaced_one_cannot_open_its_ports() -> None:
    from circus.arbiter import Arbiter

    replace_process_manager()
    arbiter = Arbiter([], "tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
    with pytest.raises(SetupError, match="not started"):
        arbiter.initialize()
    arbiter.loop.close(all_fds=True)


@pytest.mark.parametrize(
    "given",
    [
        {"plugins": ["reload"]},
        {"threaded": True},
        {"sockets": []},
        {"watchers": [SimpleNamespace(numprocesses=2)]},
        {"watchers": [SimpleNamespace(numprocesses=1)] * 2},
    ],
)
def test_what_it_does_not_supervise_is_refused_in_one_line(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    usual: dict[str, Any] = {"watchers": [SimpleNamespace(numprocesses=1)], "sockets": [object()]}
    with pytest.raises(SetupError):
        Standin(**usual | given)
    with pytest.raises(SystemExit) as ended:
        Standin.for_bentoml(**usual | given)
    assert ended.value.code == 1
    assert capsys.readouterr().err.count("followup: ") == 1


def test_an_error_is_explained_without_what_it_carries() -> None:
    for error, told in (
        (SetupError("Do this.\nThen that."), "Do this. Then that."),
        (AuditUnavailable("SECRET"), "audit trail"),
        (psycopg.OperationalError("connection to SECRET failed"), "database"),
        (OSError(2, "No such file", "/SECRET"), "No such file"),
        (ValueError("SECRET"), "ValueError"),
    ):
        said = explanation(error)
        assert told in said
        assert "SECRET" not in said
        assert "\n" not in said


def test_without_a_supervisor_errors_pass() -> None:
    with pytest.raises(ValueError, match="x"), Start.of_this_process().told():
        raise ValueError("x")


def test_a_socket_that_another_process_bound_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from circus.sockets import CircusSocket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            Standin([SimpleNamespace(numprocesses=1)], [CircusSocket("api", "127.0.0.1", port)]).start()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"followup: The server cannot listen on port {port}: ")
