"""The routes of deployments, and their words; `rollout` does what they ask for.

What may be named is a bundle beside the served one, by its identifier. `heliograph deploy` is the
client.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter
from fastapi import Body as BodyOf
from pydantic import Field

from heliograph.deployments import BUNDLE_ID, NameTaken
from heliograph.workspace import InputError
from heliograph_serve.api import Body
from heliograph_serve.api_errors import ApiError, ErrorBody
from heliograph_serve.rollout import (
    TELL_TIMEOUT_S,
    Action,
    ExperimentRuns,
    NothingToDo,
    ReplicaFailed,
    Rollout,
    Rollouts,
    Step,
    UnderWay,
)
from heliograph_serve.serving import Serving
from heliograph_serve.shelf import Holder
from heliograph_serve.smoke import check_bundle

router = APIRouter()
ERRORS: dict[int | str, dict[str, object]] = {
    400: {"model": ErrorBody, "description": "The body is not JSON."},
    409: {"model": ErrorBody, "description": "Nothing to do, or something else is under way."},
    422: {"model": ErrorBody, "description": "No such bundle, or one that cannot be served."},
    503: {"model": ErrorBody, "description": "Not all replicas answer, or too much is under way."},
}


CONFLICTS: dict[type[Exception], str] = {
    UnderWay: "under_way",
    NothingToDo: "nothing_to_do",
    ExperimentRuns: "experiment_runs",
    NameTaken: "name_taken",
}


class BundleToDeploy(Body):
    """Which bundle to serve."""

    bundle: str = Field(pattern=BUNDLE_ID)
    """Identifier of a bundle in the folder of the served one."""

    keep_previous: bool = True
    """Whether the bundle that was served stays loaded, so that a rollback is instant."""


class Progress(Body):
    """One deployment and how far it is."""

    id: str
    action: Action
    bundle: str
    """What is loaded and checked; or of an experiment that is stopped, its treatment."""

    previous: str
    """What is served until the swap."""

    step: Step
    seconds: dict[str, float]
    """Time of each finished step."""

    error: str | None
    """Why it failed; the previous bundle goes on then."""


class Holding(Body):
    """What one replica has loaded."""

    deployment: str
    current: str
    loaded: list[str]
    experiment: str | None
    """Name of the one that the replica takes part in; without its treatment it takes no part."""


class Deployments(Body):
    """What is served, by whom, and what is going on."""

    current: str
    previous: str | None
    """What a rollback leads to."""

    generation: int
    """Counts the deployments beside these bundles; 0: none since the graph was started."""

    replicas: list[Holding]
    progress: Progress | None
    """Of the latest deployment that a living replica has led."""


class DeployIngress(Holder[Serving]):
    """Routes of deployments; the ingress inherits them."""

    rollouts: Rollouts

    @router.post("/v1/admin/deploy", responses=ERRORS, status_code=202)
    async def deploy(self, wanted: Annotated[BundleToDeploy, BodyOf()]) -> Progress:
        """Load a bundle beside the served one, check it, swap; requests go on meanwhile.

        The answer comes when it has begun: `GET /v1/admin/deployments` tells how it goes.
        """
        return await begun(self.rollouts.deploy(wanted.bundle, wanted.keep_previous), "bundle")

    @router.post("/v1/admin/rollback", responses=ERRORS, status_code=202)
    async def rollback(self) -> Progress:
        """Serve again what was served before the last deployment."""
        return await begun(self.rollouts.rollback())

    @router.get("/v1/admin/deployments", responses={503: ERRORS[503]})
    async def deployments(self) -> Deployments:
        """Tell what is served, what each replica has loaded, and how a deployment goes."""
        fleet = self.rollouts.fleet
        try:
            reports = await fleet.everyone("report", timeout_s=TELL_TIMEOUT_S)
            led = await fleet.ingress("led", timeout_s=TELL_TIMEOUT_S)
        except ReplicaFailed as error:
            raise ApiError(503, "replica_unavailable", str(error)) from error
        latest = max(filter(None, led), key=lambda one: one.started, default=None)
        return Deployments(
            current=self.shelf.current_id,
            previous=self.shelf.previous_id,
            generation=self.shelf.generation,
            replicas=[
                Holding(deployment=name, **asdict(one))
                for name, ones in reports.items()
                for one in ones
            ],
            progress=_told(latest) if latest else None,
        )

    def led(self) -> Rollout | None:
        """Return the deployment that this replica has led last."""
        return self.rollouts.latest

    async def smoke(self, bundle_id: str) -> None:
        """See `smoke.check_bundle`."""
        await self.prepare(bundle_id)  # a replica that has come since the others loaded it does now
        await check_bundle(self.shelf[bundle_id])


async def begun(beginning: Awaitable[Rollout], field: str | None = None) -> Progress:
    """Tell how far something is that has just begun.

    Raises:
        ApiError: It was refused; a mistake of the caller is one in the `field`.
    """
    try:
        return _told(await beginning)
    except tuple(CONFLICTS) as error:
        raise ApiError(409, CONFLICTS[type(error)], str(error)) from error
    except InputError as error:
        raise ApiError(422, "invalid_bundle", str(error), field) from error


def _told(rollout: Rollout) -> Progress:
    plain = asdict(rollout)
    return Progress(**{name: plain[name] for name in Progress.model_fields})
