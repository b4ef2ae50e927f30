"""What an answer is committed to in its record: SHA-256(nonce ‖ answer), the answer in the one way it can be written.

The nonce goes out with the answer and is kept nowhere else. So whoever has the answer can show later, from the record's
leaf in an inclusion proof, what they were told; whoever has the trail alone can guess no answer, however few there are.

The canonical form is RFC 8785. orjson writes the same with sorted keys, a hundred times faster, except for some numbers
and for keys beyond the Basic Multilingual Plane: where any of those could be, the reference takes over.
"""

import hashlib
import re
import ssl
from collections.abc import Mapping
from typing import Any, Final

import orjson
import rfc8785

NONCE: Final = "commitment_nonce"
NONCE_BYTES: Final = 16
_BEYOND: Final = re.compile(rb"[\xf0-\xf4]")  # first byte of a character that UTF-16 writes as two
_WHOLE: Final = re.compile(rb"\.0(?=[,\]}])")  # RFC 8785 writes 1 for 1.0
_FORM: Final = bytes.maketrans(b"123456789:[", b"000000000,,")  # each digit as 0, whatever stands before a value as ,
_LARGE: Final = (b"," + b"0" * 16, b",-" + b"0" * 16)  # may be more than RFC 8785 carries, or than it writes out
_EXPONENT: Final = (b",e", b",.e", b",-e", b",-.e")  # what is left of a number with an exponent without its digits


def canonical(document: Mapping[str, Any]) -> bytes:
    """The document as a reader of its JSON would write it by RFC 8785.

    Raises rfc8785.CanonicalizationError where it has no such form, orjson.JSONEncodeError where it is no JSON.
    """
    written = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    if _might_differ(written):
        return rfc8785.dumps(orjson.loads(written))
    shorter = _WHOLE.sub(b"", written)
    if shorter != written and orjson.loads(shorter) != orjson.loads(written):  # it stood in a text
        return rfc8785.dumps(orjson.loads(written))
    return shorter


def _might_differ(written: bytes) -> bool:
    """Texts may look like what is searched for: then the reference is asked for nothing, which costs time alone."""
    if b"-0.0" in written:
        return True
    form = written.translate(_FORM)
    if any(mark in form for mark in _LARGE):
        return True
    form = form.translate(None, b"0")
    if any(mark in form for mark in _EXPONENT):
        return True
    return not written.isascii() and _BEYOND.search(written) is not None


def committed(answer: Mapping[str, Any]) -> tuple[bytes, bytes | None]:
    """The answer as it leaves, with its nonce, and what its record holds of it.

    An answer without a canonical form, such as one with a huge whole number, leaves without a nonce.
    """
    try:
        said = canonical(answer)
    except rfc8785.CanonicalizationError:
        return orjson.dumps(answer), None
    # Not os.urandom: it lets go of the interpreter's lock, and to get that back costs more than all the rest here.
    nonce = ssl.RAND_bytes(NONCE_BYTES)
    body = orjson.dumps({**answer, NONCE: nonce.hex()})
    return body, hashlib.sha256(nonce + said).digest()
