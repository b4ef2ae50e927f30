"""The versions that are loaded and answer in this process."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy.exc import DataError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from audit.record import ModelIdentity
from errors import ModelNotLoaded, SetupError, UnknownModel
from registry import catalog, opening
from registry.catalog import Registered
from registry.signatures import SigningKey, require_approval
from registry.store import Manifest
from runners.batching import Batcher, Limits
from runners.explanation import Explaining
from runners.runner import Runner

log = logging.getLogger(__name__)

# An explanation costs as much as hundreds of answers: one at a time, and few may wait.
_EXPLAINING: Final = Limits(batch_items=1, queue_items=16, slots=1)

_ALARM_EVERY: Final = 60  # looks at the catalog: an alarm that repeats every few seconds is switched off

RunnerFactory = Callable[[Path, Mapping[str, Any]], Runner[Any]]


@dataclass(frozen=True, slots=True)
class Deployment:
    """One loaded version behind its batchers: one for answers, one for what explains them."""

    identity: ModelIdentity
    manifest: Manifest
    batcher: Batcher[Any]
    explainer: Batcher[Any]

    @property
    def runner(self) -> Runner[Any]:
        return self.batcher.runner


class NotLoaded(StrEnum):
    """Why a promoted version does not answer, for those who may read models; the log has more."""

    NOT_SIGNED_FOR = "The signed acts on it do not let it answer."
    FILES = "Its files are missing, or not those that were registered."
    KIND = "This server has no runner for its kind."
    DOES_NOT_RUN = "It does not run."


class _Refused(SetupError):
    """A version that is not loaded, and why."""

    def __init__(self, why: NotLoaded, message: str) -> None:
        super().__init__(message)
        self.why = why


@dataclass(frozen=True, slots=True)
class Missing:
    """A promoted version that is not loaded, and how often it was looked at since."""

    version: str
    why: NotLoaded
    looks: int


class Deployments:
    """Follows the catalog: loads each champion, warms it up, and only then lets it take over from its predecessor.

    One that cannot be loaded takes no other with it: it is missing, which is alarmed, until it can or another is
    promoted.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        factories: Mapping[str, RunnerFactory],
        executor: Executor,
        limits: Limits,
        signatures: SigningKey,
        *,
        refresh_s: float,
    ) -> None:
        self._engine = engine
        self._factories = factories
        self._executor = executor
        self._limits = limits
        self._signatures = signatures
        self._refresh_s = refresh_s
        self._active: dict[str, Deployment] = {}
        self._missing: dict[str, Missing] = {}
        self._known: set[str] = set()  # what is promoted, or was while this process runs
        self._following: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Load the champions that can be loaded, and follow the catalog from then on."""
        await self.refresh()
        if not self._active:
            log.error(
                "no model is loaded, so nothing can be predicted. Train one: followup train ner; followup train "
                "deterioration. Or promote one: followup models promote"
            )
        self._following = asyncio.create_task(self._follow(), name="deployments")

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    @property
    def active(self) -> Sequence[Deployment]:
        return list(self._active.values())

    def get(self, name: str) -> Deployment:
        """Raises UnknownModel, or ModelNotLoaded for one that is promoted, or was, and is not loaded."""
        deployment = self._active.get(name)
        if deployment is None:
            if name in self._known:
                raise ModelNotLoaded(
                    "The model is registered but not loaded; the server's log says why.", retry_after_s=5
                )
            raise UnknownModel("No model of this name is served; GET /api/v1/ml/models lists them.")
        return deployment

    @property
    def missing(self) -> Mapping[str, Missing]:
        """By the name of its model, each version that is promoted and not loaded."""
        return dict(self._missing)

    def why_not_loaded(self, name: str, version: str) -> NotLoaded | None:
        """For a promoted version that should answer and does not."""
        missing = self._missing.get(name)
        return missing.why if missing is not None and missing.version == version else None

    def is_loaded(self, name: str, version: str) -> bool:
        deployment = self._active.get(name)
        return deployment is not None and deployment.identity.version == version

    async def _champions(self) -> Sequence[Registered]:
        async with self._engine.connect() as connection:
            champions = await connection.run_sync(catalog.champions)
        self._known |= {champion.name for champion in champions}
        return champions

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.refresh()
            except (SQLAlchemyError, OSError) as error:
                log.warning("model catalog not readable (%s); the loaded versions go on", type(error).__name__)

    async def refresh(self) -> None:
        """Take over what was promoted since the last look, take away what may not answer any more."""
        champions = await self._champions()
        await self._drop_what_may_not_answer({champion.name for champion in champions})
        for name in self._missing.keys() - {champion.name for champion in champions}:
            del self._missing[name]
        for registered in champions:
            current = self._active.get(registered.name)
            if current is not None and current.identity.id == registered.id:
                self._missing.pop(registered.name, None)
                continue
            try:
                await self._require(registered.name, registered.version, registered.digest, promoted=True)
                self._active[registered.name] = await self._load(registered)
                self._missing.pop(registered.name, None)
            except _Refused as error:
                self._miss(registered, error)

    def _miss(self, registered: Registered, error: _Refused) -> None:
        before = self._missing.get(registered.name)
        known = before is not None and (before.version, before.why) == (registered.version, error.why)
        looks = before.looks + 1 if before is not None and known else 0
        self._missing[registered.name] = Missing(registered.version, error.why, looks)
        if looks % _ALARM_EVERY == 0:
            log.error("%s:%s is not loaded: %s", registered.name, registered.version, error)

    async def _drop_what_may_not_answer(self, promoted: Collection[str]) -> None:
        """Take away each version that was rejected since it was loaded, or that nothing promotes any more."""
        for name, deployment in list(self._active.items()):
            identity = deployment.identity
            try:
                await self._require(name, identity.version, identity.digest)
                if name not in promoted:
                    raise _Refused(
                        NotLoaded.NOT_SIGNED_FOR, f"No version of {name} is promoted: followup models promote"
                    )
            except _Refused as error:
                log.error("%s:%s answers no longer: %s", name, identity.version, error)
                del self._active[name]

    async def _require(self, name: str, version: str, digest: str, *, promoted: bool = False) -> None:
        """Raises _Refused unless the signed acts let these files answer."""
        check = partial(
            require_approval, name=name, version=version, digest=digest, key=self._signatures, promoted=promoted
        )
        try:
            async with self._engine.connect() as connection:
                await connection.run_sync(check)
        except (SetupError, DataError, ValueError) as error:  # or what is written there cannot be read as acts
            told = str(error) if isinstance(error, SetupError) else f"its acts cannot be read ({type(error).__name__})"
            raise _Refused(NotLoaded.NOT_SIGNED_FOR, told) from error

    async def _load(self, registered: Registered) -> Deployment:
        deployment = await asyncio.get_running_loop().run_in_executor(self._executor, self._open, registered)
        log.info("loaded %s:%s (sha256 %s)", registered.name, registered.version, registered.digest[:12])
        return deployment

    def _open(self, registered: Registered) -> Deployment:
        try:
            stored = opening.get(registered.name, registered.version, expected_digest=registered.digest)
        except SetupError as error:
            raise _Refused(NotLoaded.FILES, str(error)) from error
        except Exception as error:  # whatever a store makes of what lies there: the others are not held up by it
            raise _Refused(NotLoaded.FILES, f"its files cannot be opened ({type(error).__name__})") from error
        factory = self._factories.get(stored.manifest.kind)
        if factory is None:
            told = f"{stored.tag} is of kind {stored.manifest.kind!r}, for which there is no runner."
            raise _Refused(NotLoaded.KIND, told)
        try:
            runner = factory(stored.path, stored.manifest.parameters)
            runner.warm_up()
        except Exception as error:  # whatever a library raises: this version does not load, the one before goes on
            told = str(error) if isinstance(error, SetupError) else f"{stored.tag} does not run"
            raise _Refused(NotLoaded.DOES_NOT_RUN, f"{told} ({type(error).__name__})") from error
        identity = ModelIdentity(
            id=registered.id, name=registered.name, version=registered.version, digest=registered.digest
        )
        answering = Batcher(runner, self._executor, self._limits)
        explaining = Batcher(Explaining(runner), self._executor, _EXPLAINING)
        return Deployment(identity, stored.manifest, answering, explaining)
