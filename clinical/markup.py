"""Scraps of HTML and RTF, and addresses of pages: what they mark up stays where it is, they themselves are blanks."""

import re
from typing import Final

_ADDRESS: Final = re.compile(r"(?:https?://|www\.)\S{1,2000}")
_BLOCKS: Final = frozenset(
    ["br", "p", "li", "div", "tr", "td", "th", "ul", "ol", "table", "h1", "h2", "h3", "h4", "h5", "h6", "hr"]
)
_TAG: Final = re.compile(
    r"</?([A-Za-z][A-Za-z0-9]{0,20})(?:\s[^<>\n]{0,300})?/?>|<!--[^<>]{0,300}-->|&(?:[a-z]{2,8}|#\d{1,6});"
)
_RTF: Final = re.compile(r"\\(par|line|pard|tab)?(?:[a-z]{1,32})?-?\d{0,10}(?: |(?=[\\{}\s]))|\\'[0-9a-fA-F]{2}|[{}]")
_RTF_SIGN: Final = re.compile(r"\\(?:rtf\d|par\b|b0?\b|fs\d)")


def plain(text: str) -> str:
    """The text with every sign of markup and every address of a page as blanks, so that all places stay as they are."""
    if "://" in text or "www." in text:
        text = _ADDRESS.sub(lambda found: " " * len(found.group()), text)
    if ("<" in text and ">" in text) or "&" in text:
        text = _TAG.sub(_blank_tag, text)
    if "\\" in text and _RTF_SIGN.search(text):
        text = _RTF.sub(_blank_word, text)
    return text


def _blank_tag(found: re.Match[str]) -> str:
    breaks = (found.group(1) or "").lower() in _BLOCKS
    return ("\n" if breaks else " ") + " " * (len(found.group()) - 1)


def _blank_word(found: re.Match[str]) -> str:
    breaks = found.group(1) in ("par", "line") and not found.group().startswith("\\pard")
    return ("\n" if breaks else " ") + " " * (len(found.group()) - 1)
