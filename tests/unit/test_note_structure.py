"""What a note is made of: every place belongs to one statement, and no text takes long."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clinical.markup import plain
from clinical.note_structure import statements

PIECES = st.sampled_from(
    [
        *(
            "Fever",
            "no",
            "?",
            ":",
            " ",
            "\n",
            "\n\n",
            "- ",
            "[x] ",
            "[ ] ",
            "yes",
            "Q: ",
            "A: ",
            "PMH",
            "FH",
            "1. ",
            ",",
        ),
        *(".", "(-)", "+", "<p>", "</p>", "&amp;", "\\par ", "{\\rtf1", "http://a?b", "•", "☑", "☐", "denies", "(Y/N)"),
        *("—", "\r", "e\u0301", "\U0001f600", "\u2028", "Past medical history"),
    ]
)


@settings(max_examples=2000, deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join) | st.text(max_size=200))
@example("")
@example("\n \n")
def test_the_statements_cover_any_text_once_and_markup_moves_nothing(text: str) -> None:
    read = plain(text)
    assert len(read) == len(text)
    at = 0
    for part in statements(read):
        assert part.start == at < part.end
        assert part.start <= part.label <= part.end
        at = part.end
    assert at == len(text)


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "a: ",
            "a:b ",
            "Fever? No ",
            "Fever: no, ",
            "- x ",
            "[x] a ",
            "x? ",
            "PMH: a. ",
            "(-) a ",
            "a:\n",
            "a,\n",
            "{",
        ),
        *("<a ", "\\a", "\n", " ", ": ", "?", "[ ] yes [x] no ", "a - no ", "Q: A? A: No\n", "A B C D E: ", "www."),
    ],
)
def test_a_hostile_repetition_is_read_to_its_end(unit: str) -> None:
    text = (unit * (20_000 // len(unit) + 1))[:20_000]
    assert sum(part.end - part.start for part in statements(plain(text))) == 20_000


def heads(text: str) -> list[tuple[str, str | None, str | None]]:
    return [
        (text[part.start : part.end].strip(), part.section, part.said)
        for part in statements(plain(text))
        if text[part.start : part.end].strip()
    ]


def test_sections_items_keys_and_answers() -> None:
    assert heads("PMH: asthma, HTN. Meds: albuterol. Exam: wheezing.") == [
        ("PMH: asthma, HTN.", "past", None),
        ("Meds: albuterol.", "medications", None),
        ("Exam: wheezing.", "exam", None),
    ]
    assert heads("PMH:\n- diabetes\n- asthma\n\nSeen today.") == [
        ("PMH:", "past", None),
        ("- diabetes", "past", None),
        ("- asthma", "past", None),
        ("Seen today.", None, None),
    ]
    assert heads("Fever: no, Cough: yes") == [
        ("Fever: no", None, "no"),
        (",", None, None),
        ("Cough: yes", None, "yes"),
    ]
    assert heads("Any nausea? Denies. Cough since Monday.") == [
        ("Any nausea? Denies", None, "no"),
        (". Cough since Monday.", None, None),
    ]
    assert heads("[x] Cough\n[ ] Fever") == [("[x] Cough", None, "yes"), ("[ ] Fever", None, "no")]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("<b>no</b> fever<br>cough", "   no     fever\n   cough"),
        ("a &amp; b < c > d", "a       b < c > d"),
        ("see https://a.b/c?d now", "see                 now"),
        ("5 < 6 and 7 > 3", "5 < 6 and 7 > 3"),
        ("C:\\temp is no RTF", "C:\\temp is no RTF"),
    ],
)
def test_markup_is_blank_and_all_else_is_left(text: str, read: str) -> None:
    assert plain(text) == read
