"""The routes of experiments, and how the ingress divides users.

An experiment begins and ends like a deployment (`rollout`), on which this module relies.
`heliograph experiment` is the client.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Body as BodyOf
from pydantic import Field

from heliograph.deployments import BUNDLE_ID, experiment_runs
from heliograph.event_store.exposures import Exposure
from heliograph.experiments import EXPERIMENT_NAME, Assignment, Experiment
from heliograph.pseudonyms import pseudonym
from heliograph_serve.api import Answered, ArmShown, Body
from heliograph_serve.deploy_api import ERRORS, DeployIngress, Progress, begun
from heliograph_serve.exposure_log import ExposureLog
from heliograph_serve.request_log import MAX_REQUEST_ID
from heliograph_serve.request_record import CURRENT, note_experiment
from heliograph_serve.serving import Serving
from heliograph_serve.shelf import Arms

router = APIRouter()


class NewExperiment(Body):
    """Which bundle to try on whom."""

    name: str = Field(pattern=EXPERIMENT_NAME)
    """Users are divided by it: the same name divides them in the same way again."""

    bundle: str = Field(pattern=BUNDLE_ID)
    """The treatment: identifier of a bundle in the folder of the served one."""

    share: float = Field(default=0.5, gt=0, lt=1)
    """Of users who get it; the others get the served bundle."""


class ExperimentRun(Body):
    """One time that an experiment was going on."""

    name: str
    control: str
    treatment: str
    share: float
    started: str
    """ISO 8601, UTC."""

    ended: str | None
    """Null: it goes on, or the graph ended first."""

    goes_on: bool


class Experiments(Body):
    """Experiments beside these bundles."""

    runs: list[ExperimentRun]
    """The oldest first."""


@dataclass(frozen=True)
class Participant:
    """A user of an experiment, and what answers."""

    experiment: str
    user: str
    """Pseudonym or identifier."""

    assignment: Assignment
    serving: Serving


class ExperimentIngress(DeployIngress):
    """Routes of experiments and what requests meet of them; the ingress inherits them."""

    exposures: ExposureLog
    pseudonym_key: bytes | None

    @router.post("/v1/admin/experiments", responses=ERRORS, status_code=202)
    async def start_experiment(self, wanted: Annotated[NewExperiment, BodyOf()]) -> Progress:
        """Load a bundle beside the served one, check it, and answer a share of the users from it.

        The answer comes when it has begun: `GET /v1/admin/deployments` tells how it goes.
        """
        experiment = Experiment(wanted.name, wanted.bundle, wanted.share)
        return await begun(self.rollouts.start_experiment(experiment), "bundle")

    @router.delete("/v1/admin/experiments", responses=ERRORS, status_code=202)
    async def stop_experiment(self) -> Progress:
        """Answer everybody from the served bundle again."""
        return await begun(self.rollouts.stop_experiment())

    @router.get("/v1/admin/experiments")
    async def experiments(self) -> Experiments:
        """Tell which experiments there were, and which goes on."""
        runs = await asyncio.to_thread(experiment_runs, self.shelf.origin.bundles)
        graph = self.shelf.origin.graph
        return Experiments(
            runs=[
                ExperimentRun(
                    name=run.experiment.name,
                    control=run.control,
                    treatment=run.experiment.treatment,
                    share=run.experiment.share,
                    started=run.started,
                    ended=run.ended,
                    goes_on=run.ended is None and run.graph == graph,
                )
                for run in runs
            ]
        )

    def participant(self, arms: Arms[Serving], user_id: str) -> Participant:
        """Return where a user belongs, and what answers."""
        user = pseudonym(user_id, self.pseudonym_key)
        assignment = arms.experiment.assign(user)
        serving = arms.treatment if assignment.arm == "treatment" else self.shelf.current
        return Participant(arms.experiment.name, user, assignment, serving)

    def expose(self, answer: Answered[Any], participant: Participant) -> None:
        """Say in an answer which arm it is of, and keep what was answered."""
        name, assignment = participant.experiment, participant.assignment
        note_experiment(name, assignment.arm)
        answer.experiment = ArmShown(
            name=name, arm=assignment.arm, propensity=assignment.propensity
        )
        record = CURRENT.get()
        self.exposures.note(
            Exposure(
                exposure_id=uuid.uuid4().hex,
                request_id="" if record is None else record.request_id[:MAX_REQUEST_ID],
                time_us=time.time_ns() // 1000,
                experiment=name,
                user_id=participant.user,
                arm=assignment.arm,
                propensity=assignment.propensity,
                bundle=answer.bundle,
                tier=answer.tier,
                item_ids=tuple(item.item_id for item in answer.items),
            )
        )
