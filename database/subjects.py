"""The one spelling of a person's, patient's or login's id.

Cognito's subs are UUIDs, and a UUID in capitals is the same UUID: without one spelling, somebody under another spelling
of their own id is somebody else, whom nobody revoked and who may grant themselves things. What comes in is spelled this
way from the start; rows from before keep their spelling and are compared by `canonical_subject` of migration 0004 or,
in the large tables with their indexes, by all spellings that there are likely to be.
"""

import re
from typing import Final

_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(@[0-9]+)?")


def canonical_subject(subject: str) -> str:
    """A UUID (and a login that is named by one and a time) in lower case, anything else as it is."""
    return subject.lower() if _UUID.fullmatch(subject) else subject


def spellings(subject: str) -> list[str]:
    """How rows of the trail may have it: canonical, in capitals, and as it was asked for."""
    canonical = canonical_subject(subject)
    return sorted({subject, canonical, canonical.upper() if _UUID.fullmatch(subject) else canonical})
