"""A general wellness product in every word that leaves it (F1)."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import errors
from api.openapi import document
from api.routes import TABLE
from clinical import wellness
from clinical.wellness import BANDS, claims_in, notice
from registry.store import StoredModel

ROOT = Path(__file__).resolve().parents[2]
SAYS_SOMETHING_TO_CLIENTS = ("access", "api", "audit", "inference", "monitoring", "registry", "runners", "clinical")
# Vocabularies of the domain: what people write in notes, not what this product says.
VOCABULARY = {
    "clinical/assertion_triggers.py",
    "clinical/language.py",
    "clinical/note_answers.py",
    "clinical/note_headings.py",
    "clinical/note_structure.py",
    "clinical/shorthand.py",
    "clinical/wellness.py",
}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield str(name)
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


@pytest.mark.requirement("F1")
def test_openapi_problems_and_notices_claim_nothing() -> None:
    texts = [*_texts(document(TABLE.routes)), *(notice(band) for band in BANDS), *BANDS]
    texts += [each.__doc__ or "" for each in vars(errors).values() if isinstance(each, type)]
    assert {text: claims for text in texts if (claims := claims_in(text))} == {}


@pytest.mark.requirement("F1")
def test_no_string_that_a_client_could_see_claims_anything() -> None:
    found = {}
    for folder in SAYS_SOMETHING_TO_CLIENTS:
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            if name in VOCABULARY or "__pycache__" in name:
                continue
            if path.suffix == ".py":
                tree = ast.parse(path.read_text(encoding="utf-8"))
                texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            elif path.suffix in {".html", ".md", ".jinja", ".svg"}:
                texts = [path.read_text(encoding="utf-8")]
            else:
                continue
            for text in texts:
                if claims := claims_in(text, denials=True):
                    found[f"{name}: {text[:60]}"] = claims
    assert found == {}


@pytest.mark.requirement("F1")
@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_documents_say_at_most_what_this_is_not(path: Path) -> None:
    assert claims_in(path.read_text(encoding="utf-8"), denials=True) == []


@pytest.mark.requirement("F1")
def test_models_are_named_and_described_without_claims(
    ner_model: StoredModel, deterioration_model: StoredModel
) -> None:
    for stored in (ner_model, deterioration_model):
        manifest = stored.manifest
        described = [
            manifest.name,
            manifest.task,
            json.dumps(manifest.input_schema),
            json.dumps(manifest.output_schema),
        ]
        assert [claims_in(text) for text in described] == [[]] * 4
        card = (stored.path / "model_card.md").read_text(encoding="utf-8")
        assert claims_in(card, denials=True) == []


@pytest.mark.requirement("F1")
@pytest.mark.parametrize(
    "claim",
    [
        "This diagnoses pneumonia.",
        "Seek urgent care.",
        "We treat your pain.",
        "An early warning of disease.",
        "Patients at risk of decline",
        "Below the clinical cut-off.",
        "FDA-cleared",
    ],
)
def test_the_lint_finds_what_it_must(claim: str) -> None:
    assert claims_in(claim)
    assert claims_in(claim, denials=True)
    assert wellness.claims_in("It is not a medical device.") == ["medical device"]
    assert wellness.claims_in("It is not a medical device.", denials=True) == []
