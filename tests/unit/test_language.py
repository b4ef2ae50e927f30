"""A text that is surely not English is told, and an English one never."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinical.language import not_english
from training.ner import corpus

OTHERS = {
    "es": [
        "Tengo fiebre y dolor de cabeza desde hace tres días",
        "Paciente de 60 años con tos y fiebre desde ayer",
        "Refiere dolor en el pecho cuando camina. Niega mareos. Toma metformina 850 mg.",
        "no fever. Tengo mucho dolor en la espalda y no puedo dormir",
    ],
    "de": [
        "Ich habe seit drei Tagen Fieber und Husten.",
        "Pat. klagt über Schmerzen in der Brust, kein Fieber",
        "Seit gestern Übelkeit und Erbrechen, nimmt Metformin.",
    ],
    "fr": [
        "J'ai mal à la tête depuis trois jours",
        "Patient présente une toux avec fièvre depuis hier",
        "Elle prend du paracétamol pour ses douleurs",
    ],
    "it": ["Ho la febbre e mal di testa da tre giorni", "Paziente con dolore al petto e tosse"],
    "pt": ["Tenho dor de cabeça e febre há três dias", "Paciente refere tosse e febre desde ontem"],
    "nl": ["Ik heb sinds drie dagen koorts en hoofdpijn", "Patiënt klaagt over pijn op de borst"],
    "und-Cyrl": ["У меня болит голова и температура"],
    "zh": ["我头痛发烧三天了，咳嗽得很厉害，晚上睡不着"],
    "ja": ["三日前から頭が痛くて、熱があります。"],
}
ENGLISH = [
    "Pt denies CP/SOB",
    "s/p MI 2018",
    "c/o HA x3d, N/V, CP, SOB; PMH: DM2, CAD, HTN",
    "Mrs de la Cruz of Los Angeles, mother of Maria del Carmen, has fever",
    "Pt speaks Spanish only, says 'me duele la cabeza'. Denies fever, cough. Lungs clear.",
    "ICH on CT, s/p EVD; met w/ Dr. van den Berg re: plan",
    "Dolor, rubor, calor and tumor: the four signs",
    "La Crosse encephalitis; café au lait spots; grand mal; petit mal; tic douloureux; coup de sabre",
    "A&Ox3, NAD, CTAB, RRR, NT/ND, no c/c/e",
    "sertraline 50 mg die, metformin 850 mg; ASA 81",
    "x",
    "12/80 99% 37.2",
]


@pytest.mark.parametrize(("tag", "text"), [(tag, text) for tag, texts in OTHERS.items() for text in texts])
def test_another_language_is_told(tag: str, text: str) -> None:
    assert not_english(text) == tag


@pytest.mark.parametrize("text", ENGLISH)
def test_telegraphic_english_gets_no_warning(text: str) -> None:
    assert not_english(text) is None


def test_no_line_of_the_corpus_gets_one_but_those_in_other_languages() -> None:
    lines = corpus.load()
    told = {line.source for part in (lines.training, lines.calibration, lines.heldout) for line in part
            if not_english(line.text)}  # fmt: skip
    assert told == {"other_languages.txt"}


def test_the_corpus_of_other_languages_is_told() -> None:
    others = [line for line in corpus.load().training if line.source == "other_languages.txt"]
    assert sum(not_english(line.text) is not None for line in others) >= 0.8 * len(others)


@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    assert not_english(text) is None or isinstance(not_english(text), str)
