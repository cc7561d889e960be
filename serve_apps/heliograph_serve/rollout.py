"""A deployment of another bundle on running replicas: prepare, check, swap; or nothing happens.

An experiment begins and ends like one: what is swapped then is who gets which bundle.

One replica of the ingress leads, whichever has the turn (`heliograph.turns`). Up to the swap the
served bundle goes on as if nothing were; the swap is one file (`heliograph.deployments`), and
whoever does not hear of it reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
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
from heliograph.turns import BEAT_S, LEASE_S, Turn, take_turn
from heliograph_serve.serving import Serving
from heliograph_serve.shelf import Origin, Shelf

Action = Literal["deploy", "rollback", "start experiment", "stop experiment"]
Step = Literal["preparing", "checking", "swapping", "done", "failed"]

LOAD_TIMEOUT_S = 900.0
CHECK_TIMEOUT_S = 120.0
TELL_TIMEOUT_S = 10.0
DRAIN_S = 5.0
"""From the swap until a bundle that is not kept goes: its last requests are answered by then."""

logger = logging.getLogger("ray.serve")


class UnderWay(Exception):
    """Another deployment has begun and not ended."""


class TurnLost(Exception):
    """Another deployment has begun, as this one was not heard of for too long."""


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
        """
        previous = self.shelf.previous_id
        if previous is None:
            raise NothingToDo(
                "nothing has been deployed since the graph was started; "
                "deploy the bundle that you want by its name"
            )
        goal = self._goal(bundle=previous, previous=self.shelf.current_id)
        await asyncio.to_thread(self.shelf.origin.open, previous)
        return await self._begin("rollback", previous, goal)

    async def start_experiment(self, experiment: Experiment) -> Rollout:
        """Begin to answer a share of the users from another bundle.

        Raises:
            InputError: The bundle is not there, not whole, or does not go with the event store.
            NameTaken: The name stands for other bundles or another share.
            NothingToDo: The bundle is the served one.
            ExperimentRuns: This one or another.
            UnderWay: A deployment is.
        """
        await self._require_servable(experiment.treatment)
        goal = replace(self._as_it_is(), experiment=experiment)
        bundles = self.shelf.origin.bundles
        await asyncio.to_thread(require_same_experiment, bundles, experiment, goal.bundle)
        return await self._begin("start experiment", experiment.treatment, goal)

    async def stop_experiment(self) -> Rollout:
        """Begin to answer everybody from the served bundle again.

        Raises:
            NothingToDo: There is no experiment.
            UnderWay: A deployment is.
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
        """Return a deployment to follow this one; its own place is not known yet."""
        return Deployment(self.shelf.generation, self.shelf.origin.graph, bundle, previous, at="")

    def _as_it_is(self) -> Deployment:
        return self._goal(self.shelf.current_id, self.shelf.previous_id)

    async def _begin(
        self, action: Action, bundle_id: str, goal: Deployment, frees: str | None = None
    ) -> Rollout:
        origin = self.shelf.origin
        turn = await asyncio.to_thread(take_turn, origin.bundles)
        if turn is None:
            raise UnderWay("another deployment is under way; see GET /v1/admin/deployments")
        try:
            goal = await asyncio.to_thread(_placed, goal, origin, action, bundle_id)
        except BaseException:
            await _end(turn)
            raise
        rollout = Rollout(action, bundle_id, self.shelf.current_id, goal, frees)
        self.latest = rollout
        self._task = asyncio.ensure_future(self._run(rollout, turn))
        return rollout

    async def _run(self, rollout: Rollout, turn: Turn) -> None:
        beating = asyncio.ensure_future(_beat(turn))
        try:
            if rollout.action != "stop experiment":  # what goes on then is in use
                await self._prepare_and_check(rollout)
            await self._swap(rollout, turn)
        except Exception as error:  # whatever it was, the served bundle goes on
            logger.warning("%s of %s failed: %s", rollout.action, rollout.bundle, error)
            rollout.error = str(error)
            await self._drop(rollout.bundle, turn)
        else:
            if rollout.frees is not None:
                await asyncio.sleep(DRAIN_S)
                await self._drop(rollout.frees, turn)
        finally:
            beating.cancel()
            await _end(turn)
            rollout.step = "failed" if rollout.error else "done"

    async def _prepare_and_check(self, rollout: Rollout) -> None:
        began = time.perf_counter()
        opened = await asyncio.to_thread(self.shelf.origin.open, rollout.bundle)
        await asyncio.to_thread(opened.check)
        await self.fleet.everyone("prepare", rollout.bundle, timeout_s=LOAD_TIMEOUT_S)
        rollout.seconds["preparing"] = _since(began)
        rollout.step, began = "checking", time.perf_counter()
        await self.fleet.ingress("smoke", rollout.bundle, timeout_s=CHECK_TIMEOUT_S)
        with contextlib.suppress(ReplicaFailed):  # then the first answers take longer, no more
            await self.fleet.ingress("warm_up", rollout.bundle, timeout_s=CHECK_TIMEOUT_S)
        rollout.seconds["checking"] = _since(began)

    async def _swap(self, rollout: Rollout, turn: Turn) -> None:
        rollout.step, began = "swapping", time.perf_counter()
        if rollout.action != "stop experiment":
            await asyncio.to_thread(_require_kept, turn)  # or it would unload another's bundle
            # replicas that have started since load it too; for the others this is nothing
            await self.fleet.everyone("prepare", rollout.bundle, timeout_s=LOAD_TIMEOUT_S)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        deployment = replace(rollout.goal, at=now)
        await asyncio.to_thread(_write, deployment, self.shelf.origin.bundles, turn)
        try:
            await self.fleet.everyone("follow", deployment, timeout_s=TELL_TIMEOUT_S)
        except ReplicaFailed as error:  # it is deployed: health checks bring the others along
            logger.warning("%s", error)
        rollout.seconds["swapping"] = _since(began)

    async def _drop(self, bundle_id: str, turn: Turn) -> None:
        try:
            await asyncio.to_thread(_require_kept, turn)  # another may be loading it by now
            await self.fleet.everyone("drop", bundle_id, timeout_s=LOAD_TIMEOUT_S)
        except (TurnLost, OSError, ReplicaFailed) as error:  # the next deployment takes its place
            logger.warning("%s stays loaded: %s", bundle_id, error)


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


def _placed(goal: Deployment, origin: Origin, action: Action, bundle_id: str) -> Deployment:
    """Give a deployment its place among the others; whoever calls has the turn.

    Raises:
        UnderWay: One was written since that which it is to follow.
        ExperimentRuns: See `require_no_harm`.
    """
    generation = newest_generation(origin.bundles)  # first: what is written later is refused below
    newest = origin.deployment()
    if newest is not None and newest.generation > goal.generation:
        raise UnderWay(f"{newest.bundle} was just deployed; try again in a moment")
    if newest is not None and newest.experiment is not None:
        require_no_harm(newest.experiment, action, bundle_id)
    return replace(goal, generation=generation + 1)


def _write(deployment: Deployment, bundles: Path, turn: Turn) -> None:
    """Write a deployment whose turn it is; should the turn be lost between, one of two writes.

    Raises:
        TurnLost: It is somebody else's.
        Superseded: Somebody else has written.
    """
    _require_kept(turn)
    write_deployment(bundles, deployment)


def _require_kept(turn: Turn) -> None:
    if not turn.keep():
        raise TurnLost(
            f"nothing was heard of this deployment for {LEASE_S:.0f} s, so another one began and "
            "this one was given up; look at what is served now and try again"
        )


async def _beat(turn: Turn) -> None:
    while True:
        await asyncio.sleep(BEAT_S)
        try:
            await asyncio.to_thread(turn.keep)  # if it is lost, the swap finds out
        except OSError as error:  # the next beat may come through
            logger.warning("a deployment cannot say that it goes on: %s", error)


async def _end(turn: Turn) -> None:
    try:
        await asyncio.to_thread(turn.give_back)
    except OSError as error:  # it ends by itself
        logger.warning("a deployment cannot say that it is over: %s", error)


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
    except Exception as error:  # by gRPC a replica's own error comes as it was raised there
        raise ReplicaFailed(f"a replica of {name}: {error}") from error
    return answers


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 3)
