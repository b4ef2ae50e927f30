"""Reasons: words that somebody will read."""

import pytest

from access.reasons import explains, says_something
from api.schemas import BreakGlassRequest

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
        "Found\u0085unconscious",
        "Found unconscious\r\x0b",
        "\n\t" * 20,
        "\U000e0041\U000e0042\U000e0043" * 8,
        "\ufe0f\u034f\u180b\U000e0100" * 8,
        "\u17b4\u17b5" * 10,
        "ｍ" * 20,
        "哈" * 20,
        "呵哈" * 10,
        "각" * 20,
        "う" * 20,
        "कि" * 20,
        "a\u093fb\u0940c\u0947" * 2,
        "कि\u093f\u0940\u0947\u0948\u094b\u094c\u093e\u0941",
        "\u093f\u0940\u0947\u0948" * 5,
        "a\u0301\u0302\u0303\u0304b\u0305c\u0306",
        "\ufdfa" * 10,
        "\u337f" * 10,
        "昏迷",
        "፩፪፫፬፭፮፯፰፱፲፩፪",
        "\U0001f3fb\U0001f1e9\U0001f1ea" * 8,
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
        "Found unconscious\nin front of the house\t(alone)",
        "मरीज बेहोश है",
        "रोगी को सीने में दर्द",
        "患者昏迷需要查看病历",
        "患者昏迷需要查看",
        "患者昏迷",
        "心痛心慌",
        "意識不明です",
        "むねがいたい",
        "환자 의식불명",
        "호흡곤란",
        "ผู้ป่วยหมดสติ",
        "রোগী অজ্ঞান",
        "நோயாளி மயக்கம்",
        "రోగి స్పృహ లేదు",
        "החולה מחוסר הכרה",
        "ታካሚው ራሱን ስቷል",
        "Bệnh nhân bất tỉnh",
        "Be\u0323\u0302nh nha\u0302n ba\u0302\u0301t ti\u0309nh",
        "Ο ασθενής λιποθύμησε",
        "პაციენტი უგონოა",
        "အတိတ်မေ့နေသည်",
        "អ្នកជំងឺសន្លប់",
    ],
)
def test_words_in_any_script_are(reason: str) -> None:
    assert explains(reason)


@pytest.mark.parametrize(("reason", "enough"), [("a lawsuit", True), ("...", False), ("\u200b\u200b\u200b", False)])
def test_where_no_length_is_asked_for_it_still_says_something(reason: str, enough: bool) -> None:
    assert says_something(reason) is enough


@pytest.mark.parametrize("reason", ["患者昏迷", "患者昏迷需要查看", "मरीज बेहोश है", "Found unconscious\n\tin the hall"])
def test_the_schema_asks_for_no_more_signs_than_a_reason_needs(reason: str) -> None:
    assert BreakGlassRequest(patient_id="p-1", reason=reason, minutes=5, confirmation=None).reason == reason
