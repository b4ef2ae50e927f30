"""Denylist, log-off, care team and break-glass against a real database, as the server's own role."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from access.break_glass import BreakGlass, Ceiling
from access.care_team import CareTeam
from access.denylist import Denylist
from access.dev_issuer import CLIENT_ID, ISSUER, DevIssuer
from access.door import Door
from access.jwks import PinnedKeys
from access.policy import Relation
from access.principal import Principal, Role
from access.recording import change, changed
from access.sessions import LoginSessions
from access.tokens import TokenVerifier
from audit.data_keys import DataKey
from audit.envelope import Envelope
from audit.record import created_at, new_id
from database.engine import open_async_engine
from embedded.postgres import EmbeddedPostgres
from errors import ConfirmationNeeded, Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated, Unavailable
from tests.conftest import eventually

MINUTE = 60.0


def principal(
    *roles: Role, subject: str = "c-1", token_id: str = "t-1", login: str | None = "l-1", auth_time: int | None = None
) -> Principal:
    return Principal(subject, frozenset(roles), "client", 0, token_id, login, auth_time)


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def event(action: str = "configure", status: int = 200) -> dict[str, Any]:
    """What the trail shall say of a change beside the change itself."""
    identity = new_id()
    return {
        "created_at": created_at(identity),
        "id": identity,
        "request_id": uuid4(),
        "action": action,
        "route": "/test",
        "status": status,
        "roles": "admin",
        "client_id": "client",
        "purpose_of_use": "HSYSADMIN",
        "ip_address": "192.0.2.1",
        "user_agent": "test",
        "latency_ms": 1.0,
    }


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def app(postgres: EmbeddedPostgres, database_url: str) -> AsyncIterator[AsyncEngine]:
    """The server's own role, which is not the owner."""
    name = make_url(database_url).database
    assert name is not None
    engine = open_async_engine(postgres.url("followup_app", name), pool_size=4)
    yield engine
    await engine.dispose()


@pytest.fixture
async def nowhere() -> AsyncIterator[AsyncEngine]:
    """A database that is not there."""
    engine = open_async_engine("postgresql://u:p@127.0.0.1:9/none", pool_size=1)
    yield engine
    await engine.dispose()


class TestDenylist:
    @pytest.mark.requirement("S7")
    @pytest.mark.parametrize(("kind", "value"), [("jti", "t-1"), ("origin_jti", "l-1"), ("sub", "c-1")])
    async def test_what_is_revoked_at_one_server_is_refused_at_the_others(
        self, app: AsyncEngine, kind: str, value: str
    ) -> None:
        here, there = Denylist(app, every_s=0.05), Denylist(app, every_s=0.05)
        await here.open()
        await there.open()
        for denylist in (here, there):
            denylist.check(principal())
        await here.revoke(kind, value, by="admin-1", event=event())  # type: ignore[arg-type]
        with pytest.raises(Unauthenticated):
            here.check(principal())

        def refused() -> bool:
            try:
                there.check(principal())
            except Unauthenticated:
                return True
            return False

        await eventually(refused, within_s=5)
        there.check(principal(subject="c-2", token_id="t-2", login="l-2"))
        await here.close()
        await there.close()

    async def test_a_revocation_ends_when_it_says_so_and_is_never_shortened(
        self, app: AsyncEngine, engine: Engine
    ) -> None:
        denylist = Denylist(app)
        await denylist.revoke("sub", "c-1", by="admin-1", hours=1, event=event())
        with engine.begin() as connection:
            connection.execute(text("UPDATE revocations SET until = now() - interval '1 second'"))
        await denylist.refresh()
        denylist.check(principal())
        await denylist.revoke("sub", "c-1", by="admin-1", hours=5, event=event())
        await denylist.revoke("sub", "c-1", by="admin-1", hours=1, event=event())
        query = text("SELECT extract(epoch FROM until - now()) / 3600 FROM revocations")
        with engine.connect() as connection:
            assert 4.9 < connection.execute(query).scalar_one() < 5.1
        await denylist.revoke("sub", "c-1", by="admin-1", event=event())
        await denylist.revoke("sub", "c-1", by="admin-1", hours=1, event=event())
        with engine.connect() as connection:
            assert connection.execute(text("SELECT until FROM revocations")).scalar_one() is None
        await denylist.refresh()
        with pytest.raises(Unauthenticated):
            denylist.check(principal())

    async def test_a_failed_reading_keeps_what_is_known_and_says_how_old_it_is(
        self, app: AsyncEngine, engine: Engine, caplog: pytest.LogCaptureFixture
    ) -> None:
        denylist = Denylist(app, every_s=0.02)
        await denylist.revoke("sub", "c-1", by="admin-1", event=event())
        await denylist.open()
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE revocations RENAME TO elsewhere"))
        await eventually(lambda: "not readable" in caplog.text)
        await asyncio.sleep(0.1)
        assert caplog.text.count("not readable") == 1
        assert denylist.age_s > 0.05
        with pytest.raises(Unauthenticated):
            denylist.check(principal())
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO revocations"))
        await eventually(lambda: "readable again" in caplog.text)
        await denylist.close()

    async def test_a_server_that_cannot_read_it_does_not_start(self, nowhere: AsyncEngine) -> None:
        with pytest.raises(Exception, match=r"(?i)connect|refused|answer"):
            await Denylist(nowhere).open()


class TestLogOff:
    @pytest.mark.requirement("S3")
    async def test_a_login_that_was_idle_for_15_minutes_is_over_until_a_new_one(self, app: AsyncEngine) -> None:
        clock = Clock(time.time() - 3600)
        sessions = LoginSessions(app, digest, clock=clock)
        for _ in range(4):
            await sessions.check(principal())
            clock.now += 14 * MINUTE
        await sessions.check(principal())
        clock.now += 15 * MINUTE
        for token in ("t-1", "t-2", "t-3"):  # refreshed tokens of the same login
            with pytest.raises(Unauthenticated):
                await sessions.check(principal(token_id=token))
            clock.now += 1
        await sessions.check(principal(login="l-2"))

    @pytest.mark.requirement("S3")
    async def test_servers_share_it(self, app: AsyncEngine) -> None:
        clock = Clock(time.time() - 3600)  # the database keeps no moment that is still to come
        here, there = (LoginSessions(app, digest, clock=clock) for _ in range(2))
        await here.check(principal())
        await here.flush()
        clock.now += 10 * MINUTE
        await there.check(principal())  # in use there, idle here
        await there.flush()
        clock.now += 10 * MINUTE
        await here.check(principal())
        await here.flush()
        clock.now += 16 * MINUTE
        for sessions in (here, there, LoginSessions(app, digest, clock=clock)):
            with pytest.raises(Unauthenticated):
                await sessions.check(principal())

    async def test_a_known_login_costs_no_look_up(self, app: AsyncEngine, engine: Engine) -> None:
        sessions = LoginSessions(app, digest)
        await sessions.check(principal())
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE login_sessions"))
        started = time.perf_counter()
        for _ in range(1000):
            await sessions.check(principal())
        assert time.perf_counter() - started < 1.0

    async def test_many_requests_of_a_new_login_ask_once(self, app: AsyncEngine) -> None:
        asked = []

        def counted(data: bytes) -> bytes:
            asked.append(data)
            return digest(data)

        sessions = LoginSessions(app, counted)
        await asyncio.gather(*(sessions.check(principal()) for _ in range(50)))
        assert len(asked) == 1

    async def test_the_table_names_no_login(self, app: AsyncEngine, engine: Engine) -> None:
        sessions = LoginSessions(app, digest, flush_s=0.02)
        await sessions.open()
        await sessions.check(principal(login="secret-login"))

        def rows() -> list[bytes]:
            with engine.connect() as connection:
                return [bytes(row[0]) for row in connection.execute(text("SELECT session FROM login_sessions"))]

        await eventually(rows)
        assert rows() == [digest(b"secret-login")]
        await sessions.close()

    async def test_without_the_database_a_server_goes_by_what_it_saw_itself(self, nowhere: AsyncEngine) -> None:
        clock = Clock(time.time())
        sessions = LoginSessions(nowhere, digest, clock=clock)
        await sessions.check(principal())
        clock.now += 14 * MINUTE
        await sessions.check(principal())
        clock.now += 16 * MINUTE
        with pytest.raises(Unauthenticated):
            await sessions.check(principal())
        await sessions.close()

    async def test_old_logins_are_forgotten_and_do_not_come_back_to_life(
        self, app: AsyncEngine, engine: Engine
    ) -> None:
        clock = Clock(time.time() - 40 * 86_400)
        sessions = LoginSessions(app, digest, clock=clock)
        await sessions.check(principal(auth_time=int(clock.now)))
        await sessions.flush()
        clock.now = time.time()
        await sessions.forget_old()
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM login_sessions")).scalar_one() == 0
        elsewhere = LoginSessions(app, digest, clock=clock)
        with pytest.raises(Unauthenticated):
            await elsewhere.check(principal(auth_time=int(clock.now - 40 * 86_400)))

    async def test_services_do_not_sign_in_and_are_not_logged_off(self, nowhere: AsyncEngine) -> None:
        clock = Clock(time.time())
        sessions = LoginSessions(nowhere, digest, clock=clock)
        for _ in range(3):
            await sessions.check(principal(Role.SERVICE, login=None))
            clock.now += 60 * MINUTE

    @pytest.mark.requirement("S3")
    async def test_a_remembered_token_still_meets_the_denylist_and_the_log_off(
        self, app: AsyncEngine, issuer: DevIssuer
    ) -> None:
        clock = Clock(time.time())
        denylist = Denylist(app)
        verifier = TokenVerifier(PinnedKeys(issuer.jwks_file), issuer=ISSUER, client_ids=[CLIENT_ID])
        door = Door(verifier, denylist, LoginSessions(app, digest, clock=clock))
        first, second = issuer.token(["clinician"], "c-1"), issuer.token(["clinician"], "c-2")
        assert (await door.verify(first)).subject == "c-1"
        assert (await door.verify(second)).subject == "c-2"
        await denylist.revoke("sub", "c-1", by="admin-1", event=event())
        with pytest.raises(Unauthenticated):
            await door.verify(first)
        clock.now += 15 * MINUTE
        with pytest.raises(Unauthenticated):
            await door.verify(second)


class TestCareTeam:
    async def test_a_relation_begins_and_ends(self, app: AsyncEngine) -> None:
        team = CareTeam(app)
        assert await team.relation("c-1", "p-1") is Relation.OTHER
        row = await team.grant("c-1", "p-1", by="admin-1", days=30, event=event())
        assert (row["clinician"], row["patient_id"], row["granted_by"]) == ("c-1", "p-1", "admin-1")
        assert 29.9 < (row["until"] - row["since"]).total_seconds() / 86_400 < 30.1
        assert await team.relation("c-1", "p-1") is Relation.CARE_TEAM
        assert await team.relation("c-2", "p-1") is Relation.OTHER
        assert await team.relation("p-1", "c-1") is Relation.OTHER
        again = await team.grant("c-1", "p-1", by="admin-2", event=event())
        assert again["since"] == row["since"]
        assert again["until"] is None
        assert [member["patient_id"] for member in await team.members("c-1")] == ["p-1"]
        await team.withdraw("c-1", "p-1", by="admin-1", event=event())
        assert await team.relation("c-1", "p-1") is Relation.OTHER
        assert await team.members("c-1") == []
        with pytest.raises(NotFound):
            await team.withdraw("c-1", "p-1", by="admin-1", event=event())
        assert (await team.grant("c-1", "p-1", by="admin-1", event=event()))["since"] > row["since"]

    async def test_other_servers_follow_within_seconds(self, app: AsyncEngine) -> None:
        here, there = CareTeam(app, kept_s=0.2), CareTeam(app, kept_s=0.2)
        assert await there.relation("c-1", "p-1") is Relation.OTHER
        await here.grant("c-1", "p-1", by="admin-1", event=event())

        async def related() -> bool:
            return await there.relation("c-1", "p-1") is Relation.CARE_TEAM

        await eventually(related, within_s=3)

    async def test_it_is_asked_once_for_many_and_then_from_memory(self, app: AsyncEngine, engine: Engine) -> None:
        team = CareTeam(app)
        await team.grant("c-1", "p-7", by="admin-1", event=event())
        found = await asyncio.gather(*(team.relation("c-1", f"p-{n % 50}") for n in range(500)))
        assert found.count(Relation.CARE_TEAM) == 10
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE care_team RENAME TO elsewhere"))
        assert await team.relation("c-1", "p-7") is Relation.CARE_TEAM

    async def test_memory_never_outlives_the_relation_itself(self, app: AsyncEngine, engine: Engine) -> None:
        team = CareTeam(app, kept_s=60)
        with engine.begin() as connection:
            connection.execute(
                text("INSERT INTO care_team VALUES ('c-1', 'p-1', now(), now() + interval '1 second', 'admin-1')")
            )
        assert await team.relation("c-1", "p-1") is Relation.CARE_TEAM
        await asyncio.sleep(1.1)
        assert await team.relation("c-1", "p-1") is Relation.OTHER

    async def test_without_the_database_nobody_is_related(self, nowhere: AsyncEngine) -> None:
        with pytest.raises(Unavailable):
            await CareTeam(nowhere).relation("c-1", "p-1")


class OneKey:
    """One key in the place of one for each patient."""

    id = UUID(int=7)

    def __init__(self) -> None:
        self._envelope = Envelope(bytes(32), "test")
        self.destroyed = False
        self.subjects: list[str] = []

    def seal(self, plain: bytes, bound_to: str) -> bytes:
        return self._envelope.seal(plain, bound_to)

    def read(self, sealed: bytes, bound_to: str) -> bytes | None:
        return DataKey(self.id, "", b"", self._envelope).read(sealed, bound_to)

    async def current(self, subject: str) -> "OneKey":
        self.subjects.append(subject)
        return self

    async def by_id(self, ids: Collection[UUID]) -> "Mapping[UUID, OneKey]":
        return {} if self.destroyed else dict.fromkeys(ids, self)


def breaking() -> dict[str, Any]:
    return event("break glass", 201)


async def _needed(attempt: Awaitable[Any]) -> str:
    """The confirmation that is asked for."""
    with pytest.raises(ConfirmationNeeded) as needed:
        await attempt
    return needed.value.confirmation


class TestBreakGlass:
    @pytest.fixture
    def keys(self) -> OneKey:
        return OneKey()

    @pytest.fixture
    def alarms(self) -> list[str]:
        return []

    @pytest.fixture
    def team(self, app: AsyncEngine) -> CareTeam:
        return CareTeam(app)

    @pytest.fixture
    def glass(self, app: AsyncEngine, keys: OneKey, alarms: list[str], team: CareTeam) -> BreakGlass:
        return BreakGlass(
            app,
            keys,
            alarm=lambda above: alarms.append("above" if above else "alarm"),
            changed=team.forget,
            digest=digest,
        )

    @pytest.mark.requirement("S2")
    async def test_it_relates_for_its_minutes_and_not_a_moment_longer(
        self, glass: BreakGlass, team: CareTeam, engine: Engine
    ) -> None:
        assert await team.relation("c-1", "p-1") is Relation.OTHER
        broken = await glass.start(
            principal(Role.CLINICIAN), "p-1", "unconscious in the emergency room", 60, event=breaking()
        )
        assert await team.relation("c-1", "p-1") is Relation.BREAK_GLASS
        assert await team.relation("c-2", "p-1") is Relation.OTHER
        assert await team.relation("c-1", "p-2") is Relation.OTHER
        with engine.connect() as connection:
            seconds = connection.execute(
                text("SELECT extract(epoch FROM expires_at - started_at) FROM break_glass WHERE id = :id"),
                {"id": broken.id},
            ).scalar_one()
        assert seconds == 3600
        with engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE break_glass SET started_at = now() - interval '60 minutes' + interval '1 second',"
                    " expires_at = now() + interval '1 second'"
                )
            )
        team.forget("c-1", "p-1")
        assert await team.relation("c-1", "p-1") is Relation.BREAK_GLASS
        await asyncio.sleep(1.1)
        assert await team.relation("c-1", "p-1") is Relation.OTHER

    @pytest.mark.requirement("S2")
    async def test_the_schema_itself_allows_an_hour_at_most(self, glass: BreakGlass) -> None:
        with pytest.raises(Exception, match="ck_break_glass_duration"):
            await glass.start(principal(Role.CLINICIAN), "p-1", "a reason of some length", 61, event=breaking())

    @pytest.mark.requirement("S2")
    async def test_it_raises_an_alarm_that_names_nobody(
        self, glass: BreakGlass, alarms: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        await glass.start(principal(Role.CLINICIAN, subject="c-77"), "p-77", "the canary is ill", 5, event=breaking())
        assert alarms == ["alarm"]
        assert "break-glass" in caplog.text
        for word in ("canary", "p-77", "c-77"):
            assert word not in caplog.text

    @pytest.mark.requirement("S4")
    async def test_the_reason_is_sealed_with_the_patients_key_and_gone_with_it(
        self, glass: BreakGlass, keys: OneKey, engine: Engine
    ) -> None:
        await glass.start(principal(Role.CLINICIAN), "p-1", "the canary is ill", 5, event=breaking())
        assert keys.subjects == ["patient:p-1"]
        with engine.connect() as connection:
            stored = bytes(connection.execute(text("SELECT reason FROM break_glass")).scalar_one())
        assert b"canary" not in stored
        (shown,) = (await glass.listing(principal(Role.AUDITOR, subject="a-1")))[0]
        assert shown["reason"] == "the canary is ill"
        keys.destroyed = True
        (shown,) = (await glass.listing(principal(Role.AUDITOR, subject="a-1")))[0]
        assert shown["reason"] is None

    async def test_a_reason_that_does_not_open_hides_no_other(self, glass: BreakGlass, app: AsyncEngine) -> None:
        await glass.start(principal(Role.CLINICIAN), "p-1", "the canary is ill", 5, event=breaking())
        call = "break_the_glass(gen_random_uuid(), 'x', 'p-1', :key, 'garbage', 60, 0, 3, 10, false, :event)"
        await changed(app, change(call, breaking(), key=OneKey.id))
        reader = principal(Role.AUDITOR, subject="a-1")
        reasons = [(row["reason"], row.get("unreadable")) for row in (await glass.listing(reader))[0]]
        assert sorted(reasons, key=str) == [("the canary is ill", None), (None, True)]

    async def test_clinicians_see_their_own_and_reviewers_all(self, glass: BreakGlass) -> None:
        for number in (1, 2):
            await glass.start(
                principal(Role.CLINICIAN, subject=f"c-{number}"), "p-1", "a reason of some length", 5, event=breaking()
            )
        assert [row["clinician"] for row in (await glass.listing(principal(Role.CLINICIAN, subject="c-1")))[0]] == [
            "c-1"
        ]
        for role in (Role.AUDITOR, Role.ADMIN):
            shown = (await glass.listing(principal(role, subject="a-1")))[0]
            assert len(shown) == 2
            assert all((row["reason"] is not None) == (role is Role.AUDITOR) for row in shown)

    @pytest.mark.requirement("S2")
    async def test_somebody_else_reviews_it_once(self, glass: BreakGlass) -> None:
        both = principal(Role.CLINICIAN, Role.AUDITOR)
        broken = await glass.start(both, "p-1", "a reason of some length", 5, event=breaking())
        assert await glass.unreviewed() == 1
        with pytest.raises(Forbidden):
            await glass.review(both, broken.id, event=event("review break-glass", 204))
        with pytest.raises(NotFound):
            await glass.review(principal(Role.AUDITOR, subject="a-1"), uuid4(), event=event("review break-glass", 204))
        await glass.review(principal(Role.AUDITOR, subject="a-1"), broken.id, event=event("review break-glass", 204))
        with pytest.raises(Conflict):
            await glass.review(principal(Role.ADMIN, subject="a-2"), broken.id, event=event("review break-glass", 204))
        assert await glass.unreviewed() == 0
        assert (await glass.listing(both, unreviewed=True))[0] == []
        (shown,) = (await glass.listing(both))[0]
        assert shown["reviewed_by"] == "a-1"
        assert shown["reviewed_at"] is not None

    @pytest.mark.requirement("S2")
    async def test_above_the_ceiling_it_is_confirmed_twice_shorter_louder_and_first(
        self, glass: BreakGlass, alarms: list[str], engine: Engine
    ) -> None:
        doctor, auditor = principal(Role.CLINICIAN), principal(Role.AUDITOR, subject="a-1")
        for number in range(3):
            await glass.start(doctor, f"p-{number}", "a reason of some length", 60, event=breaking())
        with pytest.raises(ConfirmationNeeded) as needed:
            await glass.start(doctor, "p-9", "a reason of some length", 60, event=breaking())
        for wrong in (None, "", "x" * 32):
            with pytest.raises(ConfirmationNeeded):
                await glass.start(doctor, "p-9", "a reason of some length", 60, event=breaking(), confirmation=wrong)
        confirmation = needed.value.confirmation
        with pytest.raises(ConfirmationNeeded):  # it is for one patient
            await glass.start(doctor, "p-8", "a reason of some length", 60, event=breaking(), confirmation=confirmation)
        loud = await glass.start(
            doctor, "p-9", "a reason of some length", 60, event=breaking(), confirmation=confirmation
        )
        with pytest.raises(ConfirmationNeeded):  # and for one time
            await glass.start(doctor, "p-9", "a reason of some length", 60, event=breaking(), confirmation=confirmation)
        other = principal(Role.CLINICIAN, subject="c-2")
        await glass.start(other, "p-9", "a reason of some length", 60, event=breaking())  # has a ceiling of their own
        assert alarms == ["alarm"] * 3 + ["above", "alarm"]
        (first, *rest), _ = await glass.listing(auditor)
        assert (first["id"], first["above_ceiling"]) == (str(loud.id), True)
        assert 599 < (first["expires_at"] - first["started_at"]).total_seconds() < 601
        assert [row["above_ceiling"] for row in rest] == [False] * 4
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM audit_events")).scalar_one() == 5
        await glass.review(auditor, loud.id, event=event("review break-glass", 204))
        assert (await glass.listing(auditor))[0][-1]["started_at"] <= (await glass.listing(auditor))[0][0]["started_at"]
        assert (await glass.listing(auditor))[0][0]["id"] != str(loud.id)

    @pytest.mark.requirement("S2")
    async def test_a_hundred_at_once_do_not_slip_under_the_ceiling(self, glass: BreakGlass, engine: Engine) -> None:
        doctor = principal(Role.CLINICIAN)
        attempts = (
            glass.start(doctor, f"p-{number}", "a reason of some length", 60, event=breaking()) for number in range(100)
        )
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 3
        assert {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)} == {ConfirmationNeeded}
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM break_glass")).scalar_one() == 3

    @pytest.mark.requirement("S2")
    async def test_ten_of_a_day_are_the_ceiling_too_and_a_site_may_choose_a_hard_stop(
        self, app: AsyncEngine, keys: OneKey, team: CareTeam, engine: Engine
    ) -> None:
        glass = BreakGlass(
            app, keys, alarm=lambda _above: None, changed=team.forget, digest=digest, ceiling=Ceiling(hard_stop=True)
        )
        doctor, auditor = principal(Role.CLINICIAN), principal(Role.AUDITOR, subject="a-1")
        for number in range(10):
            broken = await glass.start(doctor, f"p-{number}", "a reason of some length", 60, event=breaking())
            await glass.review(auditor, broken.id, event=event("review break-glass", 204))
        with pytest.raises(Forbidden):
            await glass.start(doctor, "p-10", "a reason of some length", 60, event=breaking())
        with engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE break_glass SET started_at = started_at - interval '25 hours',"
                    " expires_at = expires_at - interval '25 hours'"
                )
            )
        await glass.start(doctor, "p-10", "a reason of some length", 60, event=breaking())

    @pytest.mark.requirement("S2")
    async def test_a_confirmation_is_good_for_five_minutes_at_most(
        self, app: AsyncEngine, keys: OneKey, team: CareTeam
    ) -> None:
        clock = Clock(time.time())
        glass = BreakGlass(
            app,
            keys,
            alarm=lambda _above: None,
            changed=team.forget,
            digest=digest,
            clock=clock,
            ceiling=Ceiling(most_open=1),
        )
        doctor = principal(Role.CLINICIAN)
        await glass.start(doctor, "p-1", "a reason of some length", 60, event=breaking())
        for age_s, good in ((300, False), (239, True)):
            with pytest.raises(ConfirmationNeeded) as needed:
                await glass.start(doctor, "p-2", "a reason of some length", 60, event=breaking())
            clock.now += age_s
            confirmed = glass.start(
                doctor, "p-2", "a reason of some length", 60, event=breaking(), confirmation=needed.value.confirmation
            )
            if good:
                assert await confirmed
            else:
                with pytest.raises(ConfirmationNeeded):
                    await confirmed

    @pytest.mark.requirement("S2")
    async def test_a_confirmation_counts_once_though_an_old_use_drops_out_of_the_day(
        self, glass: BreakGlass, alarms: list[str], engine: Engine
    ) -> None:
        doctor = principal(Role.CLINICIAN)

        def confirmed(confirmation: str | None) -> Awaitable[Any]:
            return glass.start(
                doctor, "p-9", "a reason of some length", 60, event=breaking(), confirmation=confirmation
            )

        oldest = await glass.start(doctor, "p-0", "a reason of some length", 60, event=breaking())
        for number in (1, 2, 3, 4):
            with contextlib.suppress(ConfirmationNeeded):
                await glass.start(doctor, f"p-{number}", "a reason of some length", 60, event=breaking())
        extra = [await _needed(confirmed(None)) for _ in range(2)]
        await confirmed(extra[0])
        with engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE break_glass SET started_at = started_at - interval '25 hours',"
                    " expires_at = expires_at - interval '25 hours' WHERE id = :id"
                ),
                {"id": oldest.id},
            )
        assert extra[0] != extra[1]
        assert await _needed(confirmed(extra[0])) not in extra  # as many of the day as it was made for
        outcomes = await asyncio.gather(*(confirmed(extra[1]) for _ in range(10)), return_exceptions=True)
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
        assert {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)} == {ConfirmationNeeded}
        assert alarms.count("above") == 2
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM break_glass")).scalar_one() == 5

    async def test_the_list_has_pages(self, glass: BreakGlass) -> None:
        for number in range(7):
            doctor = principal(Role.CLINICIAN, subject=f"c-{number}")
            await glass.start(doctor, "p-1", "a reason of some length", 60, event=breaking())
        auditor, seen, cursor = principal(Role.AUDITOR, subject="a-1"), [], None
        for expected in (3, 3, 1):
            page, cursor = await glass.listing(auditor, limit=3, cursor=cursor)
            assert len(page) == expected
            seen += [row["clinician"] for row in page]
        assert cursor is None
        assert seen == [f"c-{number}" for number in reversed(range(7))]
        for wrong in ("x", "", "AAAA", "ö" * 10):
            with pytest.raises(InvalidInput):
                await glass.listing(auditor, cursor=wrong)
