"""What the README says exists."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.routes import TABLE
from api.routing import BASE
from cli import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"followup ((?:models |train )?[a-z][a-z-]*)", README))))
def test_each_command_that_it_names_exists(command: str) -> None:
    assert CliRunner().invoke(app, [*command.split(), "--help"]).exit_code == 0


def test_each_call_that_it_lists_is_a_route_and_the_other_way_round() -> None:
    listed = set()
    for line in README.splitlines():
        if match := re.match(r"\| `(GET|POST|PUT|DELETE) (/\S+?)[`?]", line):
            names = re.findall(r"`((?:[A-Z]+ )?/[^`?]+)", line.split("|")[1])
            for name in names:
                path = name.split()[-1]
                path = path if path.startswith((BASE, "/livez", "/readyz", "/metrics")) else BASE + path
                listed.add((match.group(1), path.replace("predictions/{id}", "predictions/{prediction_id}")))
    served = {(route.method, route.path) for route in TABLE.routes} - {("GET", "/schema.json")}
    assert listed - {("GET", "/livez"), ("GET", "/readyz")} == served - {("GET", f"{BASE}/openapi.json")}


def test_links_lead_to_files() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
