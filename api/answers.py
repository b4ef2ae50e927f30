"""What the reading routes share: JSON answers, and numbers from the query."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from errors import FieldFault, InvalidInput


def answer(document: Any, *, status: int = 200) -> Response:
    """JSON; times are RFC 3339 in UTC."""
    body = orjson.dumps(document, option=orjson.OPT_UTC_Z)
    return Response(body, status_code=status, media_type="application/json")


def whole_number(query: Mapping[str, str], name: str, *, default: int, least: int, most: int) -> int:
    """A number from the query string. Raises InvalidInput outside its range."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        raise InvalidInput(
            "A query parameter is out of range.", [FieldFault(f"/{name}", f"must be a whole number, {least} to {most}")]
        )
    return int(text)
