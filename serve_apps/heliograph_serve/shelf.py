"""The bundles that a replica has loaded: the one that is served, and at most one beside it.

The one beside it waits for a rollback or a deployment, or is the treatment of an experiment.

The deployment on the disk (`heliograph.deployments`) decides which is served. A replica hears of a
new one at once from whoever wrote it, and looks for itself at every health check: one that was
just starting, or could not be reached, follows within seconds.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from heliograph.bundle import Bundle, open_bundle
from heliograph.config import CandidatesConfig, IndexConfig
from heliograph.deployments import Deployment, named_bundle, newest_deployment
from heliograph.experiments import Experiment
from heliograph.item_changes import NO_CHANGES, Changes
from heliograph_serve.item_follower import ItemFollower

State = TypeVar("State")
Argument = TypeVar("Argument")
Result = TypeVar("Result")

SWITCH_INTERVAL_S = 0.0005
"""Loading must not keep the threads that answer requests waiting for 5 ms, Python's default."""

logger = logging.getLogger("ray.serve")


class NotHeld(LookupError):
    """The replica does not hold the bundle."""


@dataclass(frozen=True)
class Origin:
    """What a replica is constructed with: where it was told to begin."""

    first: Path
    """Folder of the bundle that the graph started with; others lie beside it."""

    first_id: str
    graph: str
    """Identifier of the running graph."""

    candidates: CandidatesConfig | None = None
    """How the first bundle proposes; None: as its configuration says."""

    index: IndexConfig | None = None
    """How the first bundle's indexes are searched; None: as its configuration says."""

    @property
    def bundles(self) -> Path:
        """Folder of all bundles that may be served."""
        return self.first.parent

    def open(self, bundle_id: str) -> Bundle:
        """Open a bundle; the first one may lie in a folder of another name.

        Raises:
            InputError: It is not there or not whole.
        """
        if bundle_id == self.first_id:
            bundle = open_bundle(self.first)
            changes = {"candidates": self.candidates, "index": self.index}
            given = {name: section for name, section in changes.items() if section is not None}
            return replace(bundle, config=bundle.config.model_copy(update=given))
        return named_bundle(self.bundles, bundle_id)

    def deployment(self) -> Deployment | None:
        """Return what this graph has deployed last; None: nothing since it was started."""
        return newest_deployment(self.bundles, self.graph)


@dataclass(frozen=True)
class Report:
    """What a replica says of its bundles."""

    current: str
    loaded: list[str]
    experiment: str | None
    """Name of the one that it takes part in."""


@dataclass(frozen=True)
class Arms(Generic[State]):
    """An experiment that goes on, and what the replica holds of its treatment."""

    experiment: Experiment
    treatment: State


async def unchanged(state: State, changes: Changes) -> State:
    """Let changes of items make no difference."""
    return state


class Shelf(Generic[State]):
    """Holds what a replica makes of each bundle, and of the changes of items since."""

    def __init__(
        self,
        origin: Origin,
        load: Callable[[Bundle], State],
        close: Callable[[State], None] = lambda state: None,
        amend: Callable[[State, Changes], Awaitable[State]] = unchanged,
    ) -> None:
        """Load the bundle that is served by now, without any changes yet.

        Args:
            origin: Where it is.
            load: What a replica makes of a bundle; called in a thread.
            close: Lets go of that; called in a thread.
            amend: What it makes of that when items have changed; the changes are all since the
                bundle. What came is left as it was: requests that have begun go on with it.

        Raises:
            InputError: It is not whole.
        """
        self.origin = origin
        self._load = load
        self._close = close
        self._amend = amend
        self._amending = asyncio.Lock()
        self.changes = NO_CHANGES
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="bundle")
        self._loading = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._deployment = origin.deployment()
        self.current_id = self._deployment.bundle if self._deployment else origin.first_id
        self.current = load(origin.open(self.current_id))
        self._held = {self.current_id: self.current}
        self.arms: Arms[State] | None = None
        if (experiment := self.deployed_experiment) is not None:
            self._load_treatment(experiment)

    @property
    def held(self) -> dict[str, State]:
        """What is loaded, by identifier."""
        return self._held

    @property
    def generation(self) -> int:
        """Of the deployment that is followed; 0: that of the start."""
        return 0 if self._deployment is None else self._deployment.generation

    @property
    def previous_id(self) -> str | None:
        """What was served before; None: nothing since the graph was started."""
        return None if self._deployment is None else self._deployment.previous

    @property
    def deployed_experiment(self) -> Experiment | None:
        """The experiment that goes on.

        `arms` is None all the same where its treatment is not held: such a replica takes no part.
        """
        return None if self._deployment is None else self._deployment.experiment

    @property
    def in_use(self) -> dict[str, State]:
        """What requests are answered from."""
        used = {self.current_id: self.current}
        if self.arms is not None:
            used[self.arms.experiment.treatment] = self.arms.treatment
        return used

    def __getitem__(self, bundle_id: str) -> State:
        """Return what is held of a bundle.

        Raises:
            NotHeld: This replica has not loaded it.
        """
        try:
            return self._held[bundle_id]
        except KeyError:
            raise NotHeld(f"this replica holds {sorted(self._held)}, not {bundle_id}") from None

    async def prepare(self, bundle_id: str) -> None:
        """Load a bundle beside those in use, in place of any other; requests go on.

        Raises:
            InputError: It is not there or not whole.
        """
        async with self._loading:
            await self._keep({*self.in_use, bundle_id})
            if bundle_id not in self._held:
                state = await self._loaded(bundle_id)
                try:
                    async with self._amending:
                        self._held[bundle_id] = await self._amend(state, self.changes)
                except BaseException:
                    await self._in_loader(self._close, state)
                    raise

    async def amend(self, changes: Changes) -> None:
        """Let all bundles that are held follow newer changes of items.

        One that cannot, and is not in use, is let go: it must not keep the others from it.
        """
        async with self._amending:
            for bundle_id, state in list(self._held.items()):
                try:
                    self._held[bundle_id] = await self._amend(state, changes)
                except Exception:  # whatever it was, what is served must follow
                    if bundle_id in self.in_use:
                        raise
                    logger.exception("%s cannot follow changes of items, so it goes", bundle_id)
                    await self._in_loader(self._close, self._held.pop(bundle_id))
            self.current = self._held[self.current_id]
            if self.arms is not None:
                treatment = self._held[self.arms.experiment.treatment]
                self.arms = Arms(self.arms.experiment, treatment)
            self.changes = changes

    async def drop(self, bundle_id: str) -> None:
        """Let go of a bundle that is not in use."""
        async with self._loading:
            await self._keep(set(self._held) - {bundle_id} | set(self.in_use))

    async def follow(self, deployment: Deployment) -> None:
        """Serve what a deployment says, unless it or a newer one is followed already."""
        if not self._is_news(deployment):
            return
        if deployment.bundle not in self._held:
            await self.prepare(deployment.bundle)
        self._serve(deployment)
        if self._is_news(deployment):  # its treatment is not held
            assert deployment.experiment is not None
            await self.prepare(deployment.experiment.treatment)
            self._serve(deployment)

    def _is_news(self, deployment: Deployment) -> bool:
        if deployment.generation != self.generation:
            return deployment.generation > self.generation
        return deployment.experiment is not None and self.arms is None

    def _serve(self, deployment: Deployment) -> None:
        if deployment.generation < self.generation:  # a newer one came while this was loading
            return
        self._deployment = deployment
        self.current_id = deployment.bundle
        self.current = self._held[deployment.bundle]
        experiment = deployment.experiment
        self.arms = None
        if experiment is not None and experiment.treatment in self._held:
            self.arms = Arms(experiment, self._held[experiment.treatment])

    def _load_treatment(self, experiment: Experiment) -> None:
        try:
            treatment = self._load(self.origin.open(experiment.treatment))
        except Exception:  # the served bundle is there; health checks try again
            logger.exception("the treatment of %s cannot be loaded here", experiment.name)
        else:
            self._held[experiment.treatment] = treatment
            self.arms = Arms(experiment, treatment)

    def look(self) -> None:
        """Begin to look at what is deployed, and to follow it if that is news.

        Nothing waits for it: a file system that hangs is no reason to replace a replica.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        try:
            deployment = await asyncio.to_thread(self.origin.deployment)
            if deployment is not None:
                await self.follow(deployment)
        except Exception:  # what is served goes on; the next health check tries again
            logger.exception("what is deployed cannot be read or loaded here")

    async def _loaded(self, bundle_id: str) -> State:
        loading = self._loader.submit(self._open_and_load, bundle_id)
        try:
            return await asyncio.wrap_future(loading)
        except asyncio.CancelledError:
            loading.add_done_callback(self._let_go)  # no thread stops for that
            raise

    def _let_go(self, loading: Future[State]) -> None:
        if not loading.cancelled() and loading.exception() is None:
            self._close(loading.result())

    def _open_and_load(self, bundle_id: str) -> State:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(min(interval, SWITCH_INTERVAL_S))
        try:
            return self._load(self.origin.open(bundle_id))
        finally:
            sys.setswitchinterval(interval)

    async def _keep(self, bundle_ids: set[str]) -> None:
        for bundle_id in set(self._held) - bundle_ids:
            async with self._amending:
                state = self._held.pop(bundle_id)
            await self._in_loader(self._close, state)

    async def _in_loader(self, work: Callable[[Argument], Result], argument: Argument) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._loader, work, argument)


class Holder(Generic[State]):
    """Base of the deployments: what each replica does with bundles when it is told to."""

    shelf: Shelf[State]
    items: ItemFollower

    async def prepare(self, bundle_id: str) -> None:
        """See `Shelf.prepare`."""
        await self.shelf.prepare(bundle_id)

    async def drop(self, bundle_id: str) -> None:
        """See `Shelf.drop`."""
        await self.shelf.drop(bundle_id)

    async def follow(self, deployment: Deployment) -> None:
        """See `Shelf.follow`."""
        await self.shelf.follow(deployment)

    async def catch_up(self, change: int) -> None:
        """See `ItemFollower.catch_up`."""
        await self.items.catch_up(change)

    def report(self) -> Report:
        """Tell what this replica serves and what it has loaded."""
        arms = self.shelf.arms
        taking_part = None if arms is None else arms.experiment.name
        return Report(self.shelf.current_id, sorted(self.shelf.held), taking_part)

    async def check_health(self) -> None:
        """Look at what is deployed and has changed, whenever Serve asks how the replica is.

        Serve asks for the first time before the first request.
        """
        self.shelf.look()
        await self.items.look()
