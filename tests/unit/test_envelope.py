"""Sealed values open only with their key, in their place, unchanged."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.envelope import Envelope, KeyedDigest, derive
from audit.key_encryption import new_root_key, root_key
from errors import InternalFault, SetupError


@given(st.binary(max_size=300), st.text(max_size=40))
def test_what_was_sealed_opens_again(plain: bytes, place: str) -> None:
    place = place.encode("utf-8", "replace").decode()
    envelope = Envelope(bytes(32), "key")
    sealed = envelope.seal(plain, place)
    assert envelope.open(sealed, place) == plain
    assert sealed != envelope.seal(plain, place)


def test_any_changed_bit_another_place_or_another_key_is_found() -> None:
    envelope = Envelope(bytes(32), "key")
    sealed = envelope.seal(b"note", "table|column|row")
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(InternalFault):
            envelope.open(bytes(changed), "table|column|row")
    for other in (Envelope(os.urandom(32), "key"), Envelope(bytes(32), "another")):
        with pytest.raises(InternalFault):
            other.open(sealed, "table|column|row")
    for wrong in (b"", b"x", sealed[:12]):
        with pytest.raises(InternalFault):
            envelope.open(wrong, "table|column|row")
    with pytest.raises(InternalFault):
        envelope.open(sealed, "table|column|another row")


def test_purposes_have_keys_of_their_own() -> None:
    root = root_key(new_root_key())
    assert derive(root, "a") != derive(root, "b")
    first, second = (KeyedDigest(lambda name=name: derive(root, name)) for name in "ab")
    assert first.of(b"x") != second.of(b"x")


@pytest.mark.parametrize("text", ["", "no base64!", "AAAA", new_root_key() + "AAAA"])
def test_a_wrong_root_key_stops_the_start_and_is_not_shown(text: str) -> None:
    with pytest.raises(SetupError) as refused:
        root_key(text)
    assert not text or text not in str(refused.value)
