"""A deployment of another bundle on running replicas: prepare, check, swap; or nothing happens.

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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from heliograph.deployments import (
    Deployment,
    newest_generation,
    require_same_store,
    write_deployment,
)
from heliograph_serve.serving import Serving
from heliograph_serve.shelf import Shelf

Action = Literal["deploy", "rollback"]
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
    """The bundle is served already, or there is none to go back to."""


class ReplicaFailed(RuntimeError):
    """A replica could not do what all of them were told to, or does not answer."""


@dataclass
class Rollout:
    """One deployment and how far it is."""

    action: Action
    bundle: str
    previous: str
    """What is served until the swap."""

    generation: int
    """That the swap will have."""

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
            UnderWay: Another deployment is.
            ReplicaFailed: Not all replicas of the ingress answer.
        """
        opened = await asyncio.to_thread(self.shelf.origin.open, bundle_id)
        require_same_store(self.shelf.current.config, opened.config)
        if bundle_id == self.shelf.current_id:
            raise NothingToDo(f"{bundle_id} is served already")
        return await self._begin("deploy", bundle_id, keep_previous)

    async def rollback(self) -> Rollout:
        """Begin to go back to what was served before.

        Raises:
            InputError: It is not there any more.
            NothingToDo: Nothing has been deployed since the graph was started.
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
        return await self._begin("rollback", previous, keep_previous=True)

    async def _begin(self, action: Action, bundle_id: str, keep_previous: bool) -> Rollout:
        origin = self.shelf.origin
        generation = await asyncio.to_thread(newest_generation, origin.bundles)
        newest = await asyncio.to_thread(origin.deployment)
        if newest is not None and newest.generation > self.shelf.generation:
            raise UnderWay(f"{newest.bundle} was just deployed; try again in a moment")
        rollout = Rollout(action, bundle_id, self.shelf.current_id, generation + 1)
        taken = await self.fleet.ingress("take_turn", rollout.id, timeout_s=TELL_TIMEOUT_S)
        if not all(taken):
            await self._end(rollout)
            raise UnderWay("another deployment is under way; see GET /v1/admin/deployments")
        self.latest = rollout
        self._task = asyncio.ensure_future(self._run(rollout, keep_previous))
        return rollout

    async def _run(self, rollout: Rollout, keep_previous: bool) -> None:
        beating = asyncio.ensure_future(self._beat(rollout))
        try:
            await self._prepare_and_check(rollout)
            await self._swap(rollout)
        except Exception as error:  # whatever it was, the served bundle goes on
            logger.warning("%s of %s failed: %s", rollout.action, rollout.bundle, error)
            rollout.error = str(error)
            await self._drop(rollout.bundle)
        else:
            if not keep_previous:
                await asyncio.sleep(DRAIN_S)
                await self._drop(rollout.previous)
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
        # replicas that have started since load it too; for the others this is nothing
        await self.fleet.everyone("prepare", rollout.bundle, timeout_s=LOAD_TIMEOUT_S)
        origin = self.shelf.origin
        deployment = Deployment(
            generation=rollout.generation,
            graph=origin.graph,
            bundle=rollout.bundle,
            previous=rollout.previous,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        await asyncio.to_thread(write_deployment, origin.bundles, deployment)
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
