"""What a server must not start with: rights over its own trail, or an external model that nobody answers for."""

from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from database.engine import open_async_engine
from database.safety import refuse_powerful_role
from embedded.postgres import EmbeddedPostgres
from errors import SetupError
from registry.agreements import Agreement, require_agreements, sign
from registry.signatures import Signer, SigningKey

KEY = SigningKey(lambda: bytes(32))
TODAY = date(2026, 11, 23)
AGREEMENT = Agreement(
    model_name="external_ner",
    party="Example Inc.",
    scope="notes without names",
    document_sha256="0" * 64,
    expires_on=TODAY + timedelta(days=30),
)


@pytest.mark.requirement("S6")
@pytest.mark.parametrize("role", ["followup", "postgres", "followup_sealer"])
async def test_with_a_role_that_could_rewrite_the_trail(
    postgres: EmbeddedPostgres, database_url: str, role: str
) -> None:
    engine = open_async_engine(postgres.url_as(role, database_url), pool_size=1)
    with pytest.raises(SetupError, match="followup_app"):
        await refuse_powerful_role(engine)
    await engine.dispose()


async def test_the_servers_own_role_is_taken(async_engine: AsyncEngine) -> None:
    await refuse_powerful_role(async_engine)


@pytest.mark.requirement("E2")
def test_an_external_model_without_an_agreement_of_two_approvers(engine: Engine) -> None:
    def check(today: date = TODAY) -> None:
        with engine.connect() as connection:
            require_agreements(connection, ["external_ner"], KEY, today=today)

    def signed_by(subject: str, agreement: Agreement = AGREEMENT, key: SigningKey = KEY) -> None:
        with engine.begin() as connection:
            sign(connection, agreement, Signer(subject, key))

    with engine.connect() as connection:
        require_agreements(connection, [], KEY, today=TODAY)  # the default: none
    changed: dict[str, Any] = {name: getattr(AGREEMENT, name) for name in Agreement.__dataclass_fields__}
    for sign_once_more in (
        lambda: signed_by("ann"),
        lambda: signed_by("ann"),
        lambda: signed_by("bob", Agreement(**changed | {"scope": "everything"})),
        lambda: signed_by("bob", Agreement(**changed | {"model_name": "another"})),
        lambda: signed_by("bob", key=SigningKey(lambda: b"x" * 32)),
    ):
        sign_once_more()
        with pytest.raises(SetupError, match="two approvers"):
            check()
    signed_by("bob")
    check()
    check(AGREEMENT.expires_on)
    with pytest.raises(SetupError):
        check(AGREEMENT.expires_on + timedelta(days=1))
    with engine.begin() as connection:
        connection.execute(text("UPDATE external_agreements SET expires_on = '2999-01-01'"))
    with pytest.raises(SetupError):
        check()
