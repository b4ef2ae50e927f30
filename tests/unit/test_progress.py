"""Where no terminal is, training says in plain lines that it goes on: often enough, and not too often."""

import io

import pytest

from training.progress import PlainLines, progress_bar, silent


def test_a_phase_says_when_it_starts_and_every_tenth() -> None:
    out, now = io.StringIO(), [0.0]
    show = PlainLines(out, lambda: now[0])
    show("reading", 0, 1)
    for step in range(1, 101):
        now[0] += 0.5
        show("fitting", step, 100)
    lines = out.getvalue().splitlines()
    assert lines[:3] == ["reading", "fitting", "fitting 10 %, 4 s"]
    assert lines[-1] == "fitting 100 %, 50 s"
    assert len(lines) == 12


def test_a_slow_phase_is_not_silent_for_long() -> None:
    out, now = io.StringIO(), [0.0]
    show = PlainLines(out, lambda: now[0])
    for step in range(100):
        now[0] += 4.0
        show("fitting", step, 10_000)
    lines = out.getvalue().splitlines()
    assert len(lines) == 1 + 99 * 4 // 12
    assert lines[1] == "fitting 0 %, 12 s"


def test_a_fast_phase_does_not_flood() -> None:
    out, now = io.StringIO(), [0.0]
    show = PlainLines(out, lambda: now[0])
    for step in range(1000):
        now[0] += 0.001
        show("fitting", step, 1000)
    assert out.getvalue() == "fitting\n"


def test_what_is_no_terminal_gets_lines_and_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        progress("reading", 0, 1)
        progress("exporting", 0, 1)
    silent("reading", 0, 1)
    said = capsys.readouterr()
    assert (said.err, said.out) == ("reading\nexporting\n", "")
