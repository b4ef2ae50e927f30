"""An answer and its record fit together, and to nothing else; the fast canonical form is that of the reference."""

import hashlib
import json
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audit import verify
from audit.commitment import NONCE, canonical, committed

EXACT = st.integers(-(2**53) + 1, 2**53 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ODD = st.sampled_from(
    [1.0, -0.0, 0.0, 1e16, 1e21, 1e-5, 1e-6, 1e-7, 1.5e300, 5e-324, 123456789012345.6, 1e15, 1e22, -1e-9, 0.1 + 0.2]
)
TEXTS = st.text() | st.sampled_from(["1.0,", ",e", ":1e5", "\ue000", "\U0001f600", '\x7f\x00\u2028</\\"', "[.0]"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | EXACT
    | FLOATS
    | st.floats(width=32, allow_nan=False, allow_infinity=False)
    | ODD
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(TEXTS, VALUES, max_size=5)


@settings(max_examples=3000, deadline=None)
@given(DOCUMENTS)
@example({"\ue000": 1, "\U0001f600": 2})
@example({"a": 9007199254740991, "b": -9007199254740991, "c": [1.0], "d": {"e": 1e16}})
@example({"a": [-1e-7, 1e-7, 1.5e-7, -1.5e-7, 1e7, 1.0e7]})
def test_the_form_is_that_of_the_reference(document: dict[str, Any]) -> None:
    expected = rfc8785.dumps(document)
    assert canonical(document) == expected
    assert verify.canonical(json.loads(orjson.dumps(document))).encode() == expected


@settings(max_examples=3000, deadline=None)
@given(FLOATS | ODD | EXACT)
def test_each_number_is_that_of_the_reference_wherever_it_stands(number: float) -> None:
    for document in ({"n": number}, {"n": [number]}, {"n": [0, number, 0]}, {"n": {"m": number}, "o": 1}):
        assert canonical(document) == rfc8785.dumps(document)


@settings(max_examples=500, deadline=None)
@given(DOCUMENTS)
def test_what_leaves_fits_its_record_and_no_other(document: dict[str, Any]) -> None:
    document.pop(NONCE, None)
    body, commitment = committed(document)
    read = json.loads(body)
    assert commitment is not None
    assert verify.commitment_to(read) == commitment
    nonce = bytes.fromhex(read.pop(NONCE))
    assert hashlib.sha256(nonce + rfc8785.dumps(document)).digest() == commitment
    assert rfc8785.dumps(read) == rfc8785.dumps(document)
    assert committed(document)[1] != commitment  # another nonce each time
    assert verify.commitment_to({**read, "more": 1, NONCE: nonce.hex()}) != commitment


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**63 - 1])
def test_an_answer_without_a_canonical_form_leaves_without_a_nonce(number: int) -> None:
    body, commitment = committed({"result": {"n": number}})
    assert (json.loads(body), commitment) == ({"result": {"n": number}}, None)


def test_what_is_no_number_is_committed_to_as_it_is_shown() -> None:
    body, commitment = committed({"score": float("nan")})
    read = json.loads(body)
    assert read["score"] is None
    assert verify.commitment_to(read) == commitment


@pytest.mark.parametrize("nonce", ["", "00", "0" * 31, "0" * 33, "0" * 34, "zz" * 16, None, 5])
def test_a_nonce_of_another_form_is_refused(nonce: Any) -> None:
    with pytest.raises((verify.Malformed, ValueError, TypeError)):
        verify.commitment_to({"a": 1, NONCE: nonce})
