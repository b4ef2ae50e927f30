"""Who runs a command that changes or shows something: a person with a token, whose act is signed or put on record.

`FOLLOWUP_TOKEN` holds an access token of the user pool, as for a call of the API. On a demo, tokens come from its own
issuer.
"""

import asyncio
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import Connection, Engine

from commands.shared import database
from errors import SetupError, Unauthenticated

if TYPE_CHECKING:
    from access.principal import Principal, Role
    from registry.signatures import Signer, SigningKey
    from settings import Settings


@dataclass(frozen=True, slots=True)
class Operator:
    """A verified person, the database as its owner, and the key that acts are signed with."""

    principal: "Principal"
    engine: Engine
    settings: "Settings"
    key: "SigningKey"
    archive_key: bytes

    @property
    def signer(self) -> "Signer":
        from registry.signatures import Signer

        return Signer(self.principal.subject, self.key)

    def event(self, action: str, *, target: str | None = None, patients: Sequence[str] = ()) -> Any:
        """The event of an act, for the transaction that does it."""
        from access.principal import Role
        from audit.record import Caller, Event, new_id

        caller = Caller(
            principal=self.principal.subject,
            roles=self.principal.role_names,
            client_id=self.principal.client_id,
            purpose_of_use="HSYSADMIN" if self.principal.has(Role.ADMIN) else "HCOMPL",
            request_id=uuid4(),
            route=f"followup on {platform.node()}",
            ip_address=None,
            user_agent=None,
        )
        return Event(
            id=new_id(),
            caller=caller,
            action=action,
            status=200,
            outcome="success",
            patients=tuple(patients),
            target=target,
            latency_ms=0.0,
        )

    def record(self, connection: Connection, action: str, **about: Any) -> None:
        """Put an act on record in the transaction that does it."""
        from audit.erasure import record_event

        record_event(connection, self.event(action, **about))


@contextmanager
def operating(*roles: "Role") -> Iterator[Operator]:
    """Raises SetupError unless FOLLOWUP_TOKEN is the token of somebody with one of these roles."""
    from registry.signatures import SigningKey
    from settings import load_settings

    with database() as engine:
        settings = load_settings()
        principal = asyncio.run(_verified(settings, roles))
        with engine.connect() as connection:
            _refuse_revoked(connection, principal)
        seed, archive_key = asyncio.run(_secrets(settings))
        yield Operator(principal, engine, settings, SigningKey(lambda: seed), archive_key)


def in_demo() -> bool:
    return os.environ.get("FOLLOWUP_MODE") == "demo"


def demo_operator(operator: Operator, role: "Role") -> Operator:
    """The same with the demo's person of another role. Raises SetupError outside a demo."""
    principal = asyncio.run(_verified(operator.settings, [role], _demo_token(role)))
    return replace(operator, principal=principal)


async def _verified(settings: "Settings", roles: Sequence["Role"], token: str = "") -> "Principal":
    from bootstrap import token_verifier

    token = token or os.environ.get("FOLLOWUP_TOKEN", "") or (_demo_token(roles[0]) if in_demo() else "")
    needed = " or ".join(roles)
    if not token:
        raise SetupError(f"Set FOLLOWUP_TOKEN to an access token with the role {needed}.")
    try:
        principal = await token_verifier(settings).verify(token)
    except Unauthenticated as error:
        raise SetupError("FOLLOWUP_TOKEN is not valid; tokens live for 15 minutes.") from error
    if not principal.has(*roles):
        raise SetupError(f"FOLLOWUP_TOKEN is not of somebody with the role {needed}.")
    return principal


def _refuse_revoked(connection: Connection, principal: "Principal") -> None:
    from access.denylist import refuse_revoked

    try:
        refuse_revoked(connection, principal)
    except Unauthenticated as error:
        raise SetupError("FOLLOWUP_TOKEN was revoked.") from error


def _demo_token(role: "Role") -> str:
    from access.dev_issuer import DevIssuer, demo_subject
    from settings import setting

    if not in_demo():
        raise SetupError("Only a demo signs for several people.")
    return DevIssuer(Path(setting("FOLLOWUP_HOME")) / "issuer").token([role], demo_subject(role))


async def _secrets(settings: "Settings") -> tuple[bytes, bytes]:
    from audit.data_keys import DataKeys
    from bootstrap import key_ring
    from database.engine import open_async_engine
    from registry import signatures
    from settings import owner_database_url

    engine = open_async_engine(owner_database_url(), pool_size=1)
    keys = DataKeys(engine, key_ring(settings))
    try:
        await keys.open()
        return keys.secret(signatures.PURPOSE), keys.secret("archives")
    finally:
        await keys.close()
        await engine.dispose()
