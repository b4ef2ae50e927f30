"""Tokens, logins and people that are no longer let in, though their tokens have not expired yet.

The table is followed every second into memory, so that a request costs no look-up. When it cannot be read, what is
known stays in force; a server whose denylist cannot be read at its start does not start.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Literal

from sqlalchemy import Connection, TextClause, func, or_, select, tuple_, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.dml import Update

from access.principal import Principal
from access.recording import Event, change, changed
from database.reading import bounded
from database.subjects import canonical_subject
from database.tables import Revocation
from errors import Unauthenticated, Unavailable

log = logging.getLogger(__name__)

Kind = Literal["jti", "origin_jti", "sub"]
KINDS: Final[tuple[Kind, ...]] = ("jti", "origin_jti", "sub")
LONGEST_HOURS: Final = 24 * 366
_HOURS_OF_A_TOKEN: Final = 1  # no token lives longer than a quarter of one
_ROW: Final = Revocation.__table__.c
_IN_FORCE: Final = or_(_ROW.until.is_(None), _ROW.until > func.now())


class Denylist:
    """What is revoked, as this process knows it. `open` before use."""

    def __init__(
        self, engine: AsyncEngine, *, every_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._every_s = every_s
        self._clock = clock
        self._revoked: frozenset[tuple[str, str]] = frozenset()
        self._read_at = float("-inf")
        self._following: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Read the table and follow it from now on. Raises what the database raises."""
        await self.refresh()
        self._following = asyncio.create_task(self._follow(), name="denylist")

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    @property
    def age_s(self) -> float:
        """Seconds since the table was last read."""
        return self._clock() - self._read_at

    def check(self, principal: Principal) -> None:
        """Raises Unauthenticated when the token, its login or its subject is revoked."""
        if self._revoked and not _named(principal).isdisjoint(self._revoked):
            raise Unauthenticated("The token is not valid.", reason="revoked")

    async def refresh(self) -> None:
        """Read the table once. Raises SQLAlchemyError, OSError or Unavailable."""
        read_at = self._clock()
        self._revoked = await bounded(self._read())
        self._read_at = read_at

    async def _read(self) -> frozenset[tuple[str, str]]:
        query = select(_ROW.kind, _ROW.value).where(_IN_FORCE)
        async with self._engine.connect() as connection:
            rows = (await connection.execute(query)).all()
        return frozenset((kind, canonical_subject(value)) for kind, value in rows)

    async def revoke(self, kind: Kind, value: str, *, by: str, event: Event, hours: int | None = None) -> None:
        """Let nobody in by this token, login or subject: for so many hours, or for good.

        Here at once, at other servers within a second or two. A revocation is never shortened,
        but may be undone: `restoration`. Raises Unavailable: then nothing is in force.
        """
        await changed(self._engine, revocation(kind, value, by=by, hours=hours, event=event))
        self._revoked |= {(kind, canonical_subject(value))}

    async def _follow(self) -> None:
        well = True
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.refresh()
                if not well:
                    log.warning("denylist: readable again")
                well = True
            except (SQLAlchemyError, OSError, TimeoutError, Unavailable) as error:
                if well:
                    log.error("denylist: not readable (%s), what is known stays in force", type(error).__name__)
                well = False


def refuse_revoked(connection: Connection, principal: Principal) -> None:
    """As Denylist.check, for a command that runs once. Raises Unauthenticated."""
    spelled = func.canonical_subject(_ROW.value)
    query = select(_ROW.kind).where(tuple_(_ROW.kind, spelled).in_(sorted(_named(principal))), _IN_FORCE)
    if connection.execute(query).first() is not None:
        raise Unauthenticated("The token is not valid.", reason="revoked")


def _named(principal: Principal) -> set[tuple[str, str]]:
    """What a token can be revoked by."""
    return {("sub", principal.subject), ("jti", principal.token_id), ("origin_jti", principal.login or "")}


def revocation(kind: Kind, value: str, *, by: str, event: Event, hours: int | None = None) -> TextClause:
    """The statement that revokes, for whoever has a connection; see Denylist.revoke."""
    if hours is None and kind == "jti":
        hours = _HOURS_OF_A_TOKEN
    return change(
        "revoke_access(:kind, :value, :hours, :by, :event)", event, kind=kind, value=value, hours=hours, by=by
    )


def restoration(kind: Kind, value: str) -> Update:
    """The statement that ends a revocation now and returns it if there was one; that it was stays on record."""
    return (
        update(Revocation)
        .where(_ROW.kind == kind, func.canonical_subject(_ROW.value) == canonical_subject(value), _IN_FORCE)
        .values(until=func.now())
        .returning(_ROW.kind)
    )
