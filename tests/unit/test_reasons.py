"""Reasons: words that somebody will read."""

import pytest

from access.reasons import explains, says_something

FILLERS = "\u3164\uffa0\u115f\u1160" * 4


@pytest.mark.parametrize(
    "reason",
    [
        "..........",
        "          ",
        "\u200b" * 20,
        "\u2800" * 20,
        "\u00ad\u2060\ufeff" * 8,
        FILLERS,
        "-" * 500,
        "🤕" * 20,
        "aaaaaaaaaaaaaaaa",
        "abababababababab",
        "1234567890123",
        "a b c d e",
        "Found unconscious\x00",
        "Found unconscious\x1b[31m",
        "Found \u202eunconscious",
        "e\u0301" * 3 + "." * 20,
    ],
)
def test_dots_unseen_signs_and_one_letter_are_no_reason(reason: str) -> None:
    assert not explains(reason)


@pytest.mark.parametrize(
    "reason",
    [
        "Found unconscious, nobody of the care team can be reached",
        "chest pain",
        "unconscious",
        "患者在急诊室昏迷无法联系家属",
        "Больной без сознания",
        "المريض فاقد للوعي",
    ],
)
def test_words_in_any_script_are(reason: str) -> None:
    assert explains(reason)


@pytest.mark.parametrize(("reason", "enough"), [("a lawsuit", True), ("...", False), ("\u200b\u200b\u200b", False)])
def test_where_no_length_is_asked_for_it_still_says_something(reason: str, enough: bool) -> None:
    assert says_something(reason) is enough
