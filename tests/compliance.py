"""Writes docs/compliance.md from docs/requirements.toml and the tests that are marked with a requirement.

    python -m tests.compliance

A test fails when the document is not what this would write, or when a requirement has no test.
"""

import ast
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "docs" / "requirements.toml"
DOCUMENT = ROOT / "docs" / "compliance.md"
_HEAD = """# Requirements, how each is met, and the test that proves it

Made by `python -m tests.compliance` from docs/requirements.toml and the tests themselves; do not edit. What an attacker
can and cannot do, and what is not claimed, is in [threat-model.md](threat-model.md). "Part 11" means ready for it, not
certified; HIPAA knows no certificate.

| id | source | requirement | how it is met | tests |
|---|---|---|---|---|
"""


def requirements() -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads(REQUIREMENTS.read_text(encoding="utf-8"))


def proofs() -> Mapping[str, Sequence[str]]:
    """Tests by the requirement that they are marked with, as file::name."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for name in _marked(node):
                    found[name].append(f"{path.relative_to(ROOT / 'tests').as_posix()}::{node.name}")
    return found


def _marked(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return [
        argument.value
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.requirement"
        for argument in decorator.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]


def document() -> str:
    """The whole document."""
    tests = proofs()
    rows = [
        f"| {name} | {each['source']} | {each['requirement']} | {each['met']} |"
        f" {'<br>'.join(f'`{test}`' for test in tests.get(name, []))} |\n"
        for name, each in requirements().items()
    ]
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
