"""Trains this project's item LM for one order: `python item_lm_driver.py ORDER.json`.

It trains without validation of its own, whose time would count, and is validated from the
checkpoint that it writes after every epoch: the averaged weights, as they would be served.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from course import Course
from heliograph.config import ItemLMConfig, TrainConfig
from heliograph.interactions import Interactions
from heliograph.models.item_lm import ItemLM
from heliograph.models.item_lm_epochs import TrainingJob, begin
from heliograph.models.item_lm_run import Epoch
from heliograph.models.item_lm_training import fit_item_lm
from task import Order, Task

SETTINGS_FILE = "heliograph.json"
VECTORS_FILE = "text_vectors.npy"


class Over(Exception):
    """The target or the limit is reached."""


def main() -> None:
    """Train until the target, the limit or the last epoch of the settings."""
    order = Order.load(Path(sys.argv[1]))
    torch.set_num_threads(order.threads)
    task = Task.load(Path(order.task))
    course = Course(order, task)
    job = training_job(order, task)
    shutil.rmtree(job.checkpoint, ignore_errors=True)  # an earlier run's would be continued

    def epoch_done(epoch: Epoch) -> None:
        course.seconds += epoch.seconds
        model = averaged(job)
        if course.validate(lambda histories: scores(model, histories)):
            raise Over

    with suppress(Over):
        fit_item_lm(
            job.config,
            job.train,
            job.interactions,
            None,
            job.text_vectors,
            job.seed,
            job.checkpoint,
            epoch_done,
        )


def training_job(order: Order, task: Task) -> TrainingJob:
    """Put together what the order says and what lies beside the task."""
    folder = Path(order.task)
    settings = json.loads((folder / SETTINGS_FILE).read_text())
    user_ids = [str(user) for user in range(len(task.offsets) - 1)]
    times = np.zeros(len(task.items), np.int64)
    return TrainingJob(
        ItemLMConfig(**settings["item_lm"]),
        TrainConfig(**settings["train"]),
        Interactions(user_ids, task.offsets, task.items, times),
        None,
        np.load(folder / VECTORS_FILE),
        order.seed,
        (Path(order.work) / "checkpoint").absolute(),
    )


def averaged(job: TrainingJob) -> ItemLM:
    """Return the averaged weights of the job's checkpoint."""
    network = begin(job, torch.device("cpu")).average.network
    with torch.inference_mode():
        return ItemLM(network, network.embeddings())


@torch.inference_mode()
def scores(model: ItemLM, histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
    """Return (histories, items) logits."""
    return (model.states(histories) @ model.item_embeddings.T).numpy()


if __name__ == "__main__":
    main()
