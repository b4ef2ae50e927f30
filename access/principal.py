"""Who is asking."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


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
    expires_at: float
    token_id: str
    login: str | None = None
    auth_time: int | None = None

    def has(self, *roles: Role) -> bool:
        return not self.roles.isdisjoint(roles)

    @property
    def role_names(self) -> str:
        return " ".join(sorted(self.roles))


ANONYMOUS: Final = Principal("anonymous", frozenset(), "", 0, "")
