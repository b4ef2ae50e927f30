"""docs/compliance.md says what the tests prove, and no requirement is without a test."""

from tests.compliance import DOCUMENT, document, proofs, requirements


def test_the_document_is_what_the_tests_say() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "python -m tests.compliance"


def test_every_requirement_has_a_test_and_every_mark_is_a_requirement() -> None:
    assert set(proofs()) == set(requirements())
