"""A deployment of another bundle on running replicas: prepare, check, swap; or nothing happens.

An experiment begins and ends like one: what is swapped then is who gets which bundle.

One replica of the ingress leads. Up to the swap the served bundle goes on as if nothing were; the
swap is one file (`heliograph.deployments`), and whoever does not hear of it reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from heliograph.deployments import (
    Deployment,
    newest_generation,
    require_same_experiment,
    require_same_store,
    write_deployment,
)
from heliograph.experiments import Experiment
from heliograph_serve.serving import Serving
from heliograph_serve.shelf import Shelf

Action = Literal["deploy", "rollback", "start experiment", "stop experiment"]
Step = Literal["preparing", "checking", "swapping", "done", "failed"]

LOAD_TIMEOUT_S = 900.0
CHECK_TIMEOUT_S = 120.0
TELL_TIMEOUT_S = 10.0
BEAT_S, LEASE_S = 5.0, 30.0
"""A leader says that it goes on; one that has died is in nobody's way for longer than the lease."""

DRAIN_S = 5.0
"""From the swap until a bundle that is not kept goes: its last requests are answered by then."""

logger = logging.getLogger("ray.serve")


class UnderWay(Exception):
    """Another deployment has begun and not ended."""


class NothingToDo(Exception):
    """The bundle is served already, or there is nothing to go back to or to stop."""


class ExperimentRuns(Exception):
    """An experiment goes on, and what was asked for would end or spoil it."""


class ReplicaFailed(RuntimeError):
    """A replica could not do what all of them were told to, or does not answer."""


@dataclass
class Rollout:
    """One deployment and how far it is."""

    action: Action
    bundle: str
    """What is loaded and checked; or of an experiment that is stopped, its treatment."""

    previous: str
    """What is served until the swap."""

    goal: Deployment
    """What is written at the swap."""

    frees: str | None
    """What no replica needs to keep after it."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.time)
    step: Step = "preparing"
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of each finished step."""

    error: str | None = None


class Fleet:
    """All replicas of the graph."""

    def __init__(self, retrieve: DeploymentHandle[object], rank: DeploymentHandle[object]) -> None:
        self._behind = {"Rank": rank, "Retrieve": retrieve}

    async def ingress(self, method: str, *args: object, timeout_s: float) -> list[Any]:
        """Call a method of every replica of the ingress.

        Raises:
            ReplicaFailed: One of them failed; the message says why.
        """
        here = serve.get_replica_context()
        handle = serve.get_deployment_handle(here.deployment, here.app_name)
        return await _told(here.deployment, handle, method, args, timeout_s)

    async def everyone(self, method: str, *args: object, timeout_s: float) -> dict[str, list[Any]]:
        """Call a method of every replica of every deployment, one deployment after the other.

        Raises:
            ReplicaFailed: One of them failed; the message says which and why.
        """
        answers = {
            name: await _told(name, handle, method, args, timeout_s)
            for name, handle in self._behind.items()
        }
        here = serve.get_replica_context().deployment
        return answers | {here: await self.ingress(method, *args, timeout_s=timeout_s)}


class Turn:
    """Whose turn it is to deploy, as one replica of the ingress knows."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a clock that tells seconds."""
        self._clock = clock
        self._holder = ""
        self._until = 0.0
        self._over = ""

    def take(self, rollout_id: str) -> bool:
        """Take the turn, or keep it for another while; false if it is somebody else's."""
        now = self._clock()
        if rollout_id == self._over or (rollout_id != self._holder and now < self._until):
            return False
        self._holder, self._until = rollout_id, now + LEASE_S
        return True

    def give_back(self, rollout_id: str) -> None:
        """Note that a deployment is over; what it still says comes too late."""
        self._over = rollout_id
        if self._holder == rollout_id:
            self._until = 0.0


class Rollouts:
    """Leads deployments, one at a time."""

    def __init__(self, fleet: Fleet, shelf: Shelf[Serving]) -> None:
        self.fleet = fleet
        self.shelf = shelf
        self.latest: Rollout | None = None
        self._task: asyncio.Task[None] | None = None

    async def deploy(self, bundle_id: str, keep_previous: bool) -> Rollout:
        """Begin to deploy a bundle.

        Raises:
            InputError: It is not there, not whole, or does not go with the event store.
            NothingToDo: It is served already.
            ExperimentRuns: And this is not its treatment.
            UnderWay: Another deployment is.
            ReplicaFailed: Not all replicas of the ingress answer.
        """
        await self._require_servable(bundle_id)
        current = self.shelf.current_id
        goal = self._goal(bundle=bundle_id, previous=current)
        return await self._begin("deploy", bundle_id, goal, None if keep_previous else current)

    async def rollback(self) -> Rollout:
        """Begin to go back to what was served before.

        Raises:
            InputError: It is not there any more.
            NothingToDo: Nothing has been deployed since the graph was started.
            ExperimentRuns: It has to be stopped first.
            UnderWay: Another deployment is.
            ReplicaFailed: Not all replicas of the ingress answer.
        """
        previous = self.shelf.previous_id
        if previous is None:
            raise NothingToDo(
                "nothing has been deployed since the graph was started; "
                "deploy the bundle that you want by its name"
            )
        await asyncio.to_thread(self.shelf.origin.open, previous)
        goal = self._goal(bundle=previous, previous=self.shelf.current_id)
        return await self._begin("rollback", previous, goal)

    async def start_experiment(self, experiment: Experiment) -> Rollout:
        """Begin to answer a share of the users from another bundle.

        Raises:
            InputError: The bundle is not there, not whole, or does not go with the event store.
            NameTaken: The name stands for other bundles or another share.
            NothingToDo: The bundle is the served one.
            ExperimentRuns: This one or another.
            UnderWay: A deployment is.
            ReplicaFailed: Not all replicas of the ingress answer.
        """
        await self._require_servable(experiment.treatment)
        shelf = self.shelf
        await asyncio.to_thread(
            require_same_experiment, shelf.origin.bundles, experiment, shelf.current_id
        )
        goal = replace(self._as_it_is(), experiment=experiment)
        return await self._begin("start experiment", experiment.treatment, goal)

    async def stop_experiment(self) -> Rollout:
        """Begin to answer everybody from the served bundle again.

        Raises:
            NothingToDo: There is no experiment.
            UnderWay: A deployment is.
            ReplicaFailed: Not all replicas of the ingress answer.
        """
        experiment = self.shelf.deployed_experiment
        if experiment is None:
            raise NothingToDo("no experiment goes on")
        treatment = experiment.treatment
        return await self._begin("stop experiment", treatment, self._as_it_is(), treatment)

    async def _require_servable(self, bundle_id: str) -> None:
        opened = await asyncio.to_thread(self.shelf.origin.open, bundle_id)
        require_same_store(self.shelf.current.config, opened.config)
        if bundle_id == self.shelf.current_id:
            raise NothingToDo(f"{bundle_id} is served already")

    def _goal(self, bundle: str, previous: str | None) -> Deployment:
        """Return a deployment whose place among the others is not known yet."""
        return Deployment(0, self.shelf.origin.graph, bundle, previous, at="")

    def _as_it_is(self) -> Deployment:
        return self._goal(self.shelf.current_id, self.shelf.previous_id)

    async def _begin(
        self, action: Action, bundle_id: str, goal: Deployment, frees: str | None = None
    ) -> Rollout:
        origin = self.shelf.origin
        generation = await asyncio.to_thread(newest_generation, origin.bundles)
        newest = await asyncio.to_thread(origin.deployment)
        if newest is not None and newest.generation > self.shelf.generation:
            raise UnderWay(f"{newest.bundle} was just deployed; try again in a moment")
        if newest is not None and newest.experiment is not None:
            require_no_harm(newest.experiment, action, bundle_id)
        goal = replace(goal, generation=generation + 1)
        rollout = Rollout(action, bundle_id, self.shelf.current_id, goal, frees)
        taken = await self.fleet.ingress("take_turn", rollout.id, timeout_s=TELL_TIMEOUT_S)
        if not all(taken):
            await self._end(rollout)
            raise UnderWay("another deployment is under way; see GET /v1/admin/deployments")
        self.latest = rollout
        self._task = asyncio.ensure_future(self._run(rollout))
        return rollout

    async def _run(self, rollout: Rollout) -> None:
        beating = asyncio.ensure_future(self._beat(rollout))
        try:
            if rollout.action != "stop experiment":  # what goes on then is in use
                await self._prepare_and_check(rollout)
            await self._swap(rollout)
        except Exception as error:  # whatever it was, the served bundle goes on
            logger.warning("%s of %s failed: %s", rollout.action, rollout.bundle, error)
            rollout.error = str(error)
            await self._drop(rollout.bundle)
        else:
            if rollout.frees is not None:
                await asyncio.sleep(DRAIN_S)
                await self._drop(rollout.frees)
        finally:
            beating.cancel()
            await self._end(rollout)
            rollout.step = "failed" if rollout.error else "done"

    async def _prepare_and_check(self, rollout: Rollout) -> None:
        began = time.perf_counter()
        opened = await asyncio.to_thread(self.shelf.origin.open, rollout.bundle)
        await asyncio.to_thread(opened.check)
        await self.fleet.everyone("prepare", rollout.bundle, timeout_s=LOAD_TIMEOUT_S)
        rollout.seconds["preparing"] = _since(began)
        rollout.step, began = "checking", time.perf_counter()
        await self.fleet.ingress("smoke", rollout.bundle, timeout_s=CHECK_TIMEOUT_S)
        rollout.seconds["checking"] = _since(began)

    async def _swap(self, rollout: Rollout) -> None:
        rollout.step, began = "swapping", time.perf_counter()
        if rollout.action != "stop experiment":
            # replicas that have started since load it too; for the others this is nothing
            await self.fleet.everyone("prepare", rollout.bundle, timeout_s=LOAD_TIMEOUT_S)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        deployment = replace(rollout.goal, at=now)
        await asyncio.to_thread(write_deployment, self.shelf.origin.bundles, deployment)
        try:
            await self.fleet.everyone("follow", deployment, timeout_s=TELL_TIMEOUT_S)
        except ReplicaFailed as error:  # it is deployed: health checks bring the others along
            logger.warning("%s", error)
        rollout.seconds["swapping"] = _since(began)

    async def _beat(self, rollout: Rollout) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            with contextlib.suppress(ReplicaFailed):  # a replica that dies is no reason to give up
                await self.fleet.ingress("take_turn", rollout.id, timeout_s=TELL_TIMEOUT_S)

    async def _drop(self, bundle_id: str) -> None:
        try:
            await self.fleet.everyone("drop", bundle_id, timeout_s=LOAD_TIMEOUT_S)
        except ReplicaFailed as error:  # the next deployment takes its place
            logger.warning("%s", error)

    async def _end(self, rollout: Rollout) -> None:
        try:
            await self.fleet.ingress("give_turn_back", rollout.id, timeout_s=TELL_TIMEOUT_S)
        except ReplicaFailed as error:  # a replica that has died has forgotten it
            logger.warning("%s", error)


def require_no_harm(running: Experiment, action: Action, bundle_id: str) -> None:
    """Refuse what would end an experiment unsaid; to deploy its treatment is to say so.

    Raises:
        ExperimentRuns: It would.
    """
    is_promotion = action == "deploy" and bundle_id == running.treatment
    if action != "stop experiment" and not is_promotion:
        raise ExperimentRuns(
            f"the experiment {running.name} goes on; stop it first (`heliograph experiment stop`), "
            f"or deploy its treatment {running.treatment}"
        )


async def _told(
    name: str,
    handle: DeploymentHandle[object],
    method: str,
    args: Sequence[object],
    timeout_s: float,
) -> list[Any]:
    try:
        answers: list[Any] = await handle.broadcast(method, *args).results_async(
            timeout_s=timeout_s
        )
    except RayTaskError as error:
        raise ReplicaFailed(f"a replica of {name}: {error.cause or error}") from error
    except (RayError, RayServeException, TimeoutError) as error:
        raise ReplicaFailed(
            f"a replica of {name} did not answer within {timeout_s:.0f} s or died: {error}"
        ) from error
    return answers


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 3)
