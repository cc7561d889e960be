"""Trains an item LM on several processes at once: Ray Train starts them, and starts them again.

Each worker runs the epochs of `item_lm_epochs` over its share of every batch. What a worker that
dies has cost is the epoch it was in: all start again from the checkpoint, which every one of
them must see, so on several machines the workspace must be on a shared disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import ray
import torch
from ray import PlacementGroupID
from ray.train import get_context
from ray.train.torch import get_device
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.result import Result
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.placement_group import (
    PlacementGroup,
    placement_group_table,
    remove_placement_group,
)

from heliograph.cluster import ray_cluster
from heliograph.config import TrainConfig
from heliograph.models.item_lm_epochs import EpochDone, TrainingJob, begin, train
from heliograph.models.item_lm_run import Course, Epoch, epochs_of, read_record
from heliograph.models.team import Team
from heliograph.workspace import InputError

RESTARTS = 5
"""Deaths of workers that a run survives."""

KILL_S = 10.0
POLL_S = 0.5
"""Between looks at the checkpoint for epochs that are done."""


def train_on_workers(job: TrainingJob, epoch_done: EpochDone) -> None:
    """Train on `job.train.workers` processes and leave the result in the checkpoint.

    Raises:
        InputError: The cluster has too few CPUs or GPUs, or the checkpoint is damaged.
        DivergedError: The loss or the gradient is no finite number any more.
    """
    storage = job.checkpoint / "ray"
    with ray_cluster():
        scaling = _scaling(job.train)
        course, told = job.course(), _Told(epoch_done)
        told.skip(_epochs(job, course))
        before = set(placement_group_table())
        fitter: Any = ray.remote(num_cpus=0)(_Fitter).remote()
        fitting = fitter.fit.remote([ray.put(job)], scaling, storage)
        try:
            while not ray.wait([fitting], timeout=POLL_S)[0]:
                told.tell(_epochs(job, course))
            failure = ray.get(fitting)
            told.tell(_epochs(job, course))
        finally:
            ray.kill(fitter)  # which may be at work still, where `epoch_done` raised
            ray.wait([fitting], timeout=KILL_S)
            _release(before, [scaling.resources_per_worker] * job.train.workers)
            shutil.rmtree(storage, ignore_errors=True)
    if failure is not None:
        raise failure


def cpus_each(nodes: Iterable[float], workers: int) -> int:
    """Return how many CPUs each worker can have on machines of so many; 0 if they do not fit."""
    nodes = list(nodes)
    for cpus in range(int(max(nodes, default=0)), 0, -1):
        if sum(int(node) // cpus for node in nodes) >= workers:
            return cpus
    return 0


class _Told:
    """Passes on each epoch once."""

    def __init__(self, epoch_done: EpochDone) -> None:
        self.epoch_done = epoch_done
        self.count = 0

    def skip(self, epochs: list[Epoch]) -> None:
        self.count = len(epochs)

    def tell(self, epochs: list[Epoch]) -> None:
        for epoch in epochs[self.count :]:
            self.count += 1
            self.epoch_done(epoch)


def _release(before: set[str], bundles: Sequence[object]) -> None:
    """Give back the CPUs that a cancelled run has reserved.

    Ray Train's own cleaner asks the dashboard whether the run lives, and waits where there is none.
    """
    for name, group in placement_group_table().items():
        is_ours = name not in before and list(group["bundles"].values()) == list(bundles)
        if is_ours and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(name)))


def _epochs(job: TrainingJob, course: Course) -> list[Epoch]:
    return epochs_of(read_record(job.checkpoint, course))


def _scaling(train: TrainConfig) -> ScalingConfig:
    """Give each worker a GPU where there are any, else its part of the CPUs."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    use_gpu = train.device == "cuda" or (train.device == "auto" and gpus > 0)
    cpus = cpus_each((node.get("CPU", 0) for node in nodes), train.workers)
    if cpus == 0 or (use_gpu and gpus < train.workers):
        total = sum(int(node.get("CPU", 0)) for node in nodes)
        raise InputError(
            f"train.workers is {train.workers}, but the Ray cluster has {total} CPUs and {gpus} "
            "GPUs; each worker takes at least one CPU, and one GPU where train.device is cuda or "
            "auto finds one; lower train.workers or enlarge the cluster"
        )
    resources = {"CPU": 1.0, "GPU": 1.0} if use_gpu else {"CPU": float(cpus)}
    return ScalingConfig(num_workers=train.workers, use_gpu=use_gpu, resources_per_worker=resources)


class _Fitter:
    """Runs Ray Train in a process of its own, so that the caller can follow it, and end it.

    A task could be cancelled instead, but Ray ends the whole caller when a task that it cancels by
    force is over at the same moment.
    """

    def fit(
        self, job: list[ray.ObjectRef[TrainingJob]], scaling: ScalingConfig, storage: Path
    ) -> InputError | None:
        """Return the error that ended the training, None if there was none."""
        trainer = TorchTrainer(
            _work,
            train_loop_config={"job": job[0]},
            scaling_config=scaling,
            run_config=RunConfig(
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=RESTARTS),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        result = cast(Result, trainer.fit())  # annotated as the one of Ray Train's first version
        failure: InputError | None = result.return_value
        return failure


def _work(config: dict[str, Any]) -> InputError | None:
    """Train as one of the team; an error that would come again is returned, not raised."""
    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(cpus)))
    job: TrainingJob = ray.get(config["job"])
    context = get_context()
    team = Team(context.get_world_rank(), context.get_world_size())
    try:
        run = begin(job, get_device())
        train(job, run, team, epoch_done=lambda epoch: None)
    except InputError as error:
        return error
    return None
