"""Who is asking."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(@[0-9]+)?")


def canonical_subject(subject: str) -> str:
    """The one spelling of a person's, patient's or login's id: a UUID in lower case, anything else as it is.

    Without it, somebody with another spelling of their own id is somebody else. Migration 0004 has the same in SQL.
    """
    return subject.lower() if _UUID.fullmatch(subject) else subject


def spellings(subject: str) -> list[str]:
    """How rows from before there was one spelling may have it."""
    return sorted({subject, canonical_subject(subject), subject.upper() if _UUID.fullmatch(subject) else subject})


class Role(StrEnum):
    """The groups of the user pool that mean something here."""

    PATIENT = "patient"
    CLINICIAN = "clinician"
    ML_ENGINEER = "ml-engineer"
    APPROVER = "approver"
    AUDITOR = "auditor"
    ADMIN = "admin"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Principal:
    """One person or service, as a verified token says. `expires_at` and `auth_time` are in seconds since 1970.

    `token_id` is the token's jti. `login` names the sign-in that it came from (origin_jti) and that all tokens
    refreshed from it share; a service, which gets each token by its own secret, has none. `auth_time` is when that was.
    """

    subject: str
    roles: frozenset[Role]
    client_id: str
    expires_at: int
    token_id: str
    login: str | None = None
    auth_time: int | None = None

    def has(self, *roles: Role) -> bool:
        return not self.roles.isdisjoint(roles)

    @property
    def role_names(self) -> str:
        return " ".join(sorted(self.roles))


ANONYMOUS: Final = Principal("anonymous", frozenset(), "", 0, "")
