"""Byte-level pieces become whole words at exact code points; a manifest says what kind of tokenizer there is."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from clinical.entities import Pieces
from clinical.tokenizing import BYTE_LEVEL, TokenizerForm
from training.ner import encoder

FORM = TokenizerForm("<s>", "</s>", "<pad>", "<mask>", BYTE_LEVEL)


def byte_level(*, trims: bool, prefix: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the patient has severe headache and took aspirin, café"] * 9, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trims, add_prefix_space=prefix
    )
    return tokenizer


def words_of(text: str, tokenizer: Tokenizer) -> list[str]:
    pieces = FORM.pieces(text, tokenizer.encode(text, add_special_tokens=False))
    stops = [*pieces.word_first[1:], len(pieces)]
    return [
        text[pieces.starts[first] : pieces.ends[stop - 1]] for first, stop in zip(pieces.word_first, stops, strict=True)
    ]


@pytest.mark.parametrize("trims", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
def test_words_are_whole_and_without_blanks(trims: bool, prefix: bool) -> None:
    tokenizer = byte_level(trims=trims, prefix=prefix)
    for text, words in {
        "Patient has headache, café.": ["Patient", "has", "headache", ",", "café", "."],
        "  two  blanks\n\nand\tlines ": ["two", "blanks", "and", "lines"],
        "🩺🤧 naïve Zoë 5mg": ["🩺", "🤧", "naïve", "Zoë", "5mg"],
        "nai\u0308ve e\u0301": ["nai\u0308ve", "e\u0301"],
        "can't take 2.5 mg (8/10)": ["can't", "take", "2.5", "mg", "(", "8/10", ")"],
        "痛い 👩‍⚕️": ["痛い", *"👩‍⚕️"],
        "headache🩺headache": ["headache", "🩺", "headache"],
    }.items():
        found = words_of(text, tokenizer)
        marks = [word for word in words if word not in "\u200d\ufe0f"]
        assert [word for word in found if word not in "\u200d\ufe0f"] == marks, text


def test_a_text_of_blanks_has_no_pieces() -> None:
    tokenizer = byte_level(trims=True, prefix=False)
    assert len(FORM.pieces(" \n ", tokenizer.encode(" \n ", add_special_tokens=False))) == 0


def test_pieces_of_one_character_stand_at_one_place_and_belong_to_one_word() -> None:
    tokenizer = byte_level(trims=True, prefix=False)
    pieces = FORM.pieces("a 🩺", tokenizer.encode("a 🩺", add_special_tokens=False))
    assert len(pieces) > 2
    assert len(pieces.word_first) == 2
    assert pieces.ends[-1] == 3


def test_the_form_is_read_from_a_manifest() -> None:
    assert TokenizerForm.of(None) == TokenizerForm()
    own = {"file": "tokenizer.json", "kind": "wordpiece", "lowercase": True, "special": ["[CLS]", "[SEP]"]}
    assert TokenizerForm.of(own) == TokenizerForm()
    told: dict[str, Any] = {"kind": "byte-level", "special": ["<s>", "</s>", "<pad>", "<mask>"]}
    assert TokenizerForm.of(told) == FORM
    for wrong in ({"kind": "letters"}, {"special": ["<s>"]}):
        with pytest.raises(ValueError, match="form"):
            TokenizerForm.of(wrong)


def test_a_wordpiece_encoding_is_taken_as_it_is() -> None:
    tokenizer = encoder.tokenizer(encoder.find())
    encoding = tokenizer.encode("had\ncafé.", add_special_tokens=False)
    found, usual = TokenizerForm().pieces("had\ncafé.", encoding), Pieces.of("had\ncafé.", encoding)
    assert found.word_first.tolist() == usual.word_first.tolist() == [0, 1, 2, 3]
