"""Who comes in: a token that is good, not revoked, and of a login that is in use. Asked at every request."""

from access.denylist import Denylist
from access.principal import Principal
from access.sessions import LoginSessions
from access.tokens import TokenVerifier


class Door:
    """The three checks in their order."""

    def __init__(self, verifier: TokenVerifier, denylist: Denylist, sessions: LoginSessions) -> None:
        self._verifier = verifier
        self._denylist = denylist
        self._sessions = sessions

    async def verify(self, token: str) -> Principal:
        """Whose token it is. Raises Unauthenticated."""
        principal = await self._verifier.verify(token)
        self._denylist.check(principal)
        await self._sessions.check(principal)
        return principal
