"""Fits the item LM: next-item prediction with a softmax over the catalogue or a sample of it.

Every epoch ends with a validation and a checkpoint, so a killed run goes on where it was and
an early stop returns the best epoch, not the last.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from heliograph.config import ItemLMConfig, TrainConfig
from heliograph.interactions import Interactions
from heliograph.models.item_lm import ItemLM
from heliograph.models.item_lm_epochs import EpochDone, TrainingJob, begin, train
from heliograph.models.item_lm_run import Epoch
from heliograph.models.team import Team
from heliograph.splits import NextItems


def fit_item_lm(
    config: ItemLMConfig,
    settings: TrainConfig,
    interactions: Interactions,
    held_out: NextItems | None,
    text_vectors: NDArray[np.float32],
    seed: int,
    checkpoint: Path,
    epoch_done: EpochDone,
) -> tuple[ItemLM, list[Epoch]]:
    """Train until validation NDCG@10 stops improving, or epochs or minutes run out.

    Args:
        config: Shape of the model.
        settings: How it is trained.
        interactions: Training histories.
        held_out: What validation looks for; None trains for exactly `settings.epochs` epochs.
        text_vectors: (items, dim) of length 1.
        seed: Two runs with the same seed, data, threads, workers and machine give the same model.
        checkpoint: Folder that is written every epoch; a run of the same data, seed and settings
            that is found there is continued, any other is replaced. Workers on several machines
            must all see it.
        epoch_done: Told about every epoch.

    Returns:
        The averaged weights of the best epoch, without validation of the last; and all epochs.

    Raises:
        InputError: The checkpoint is damaged.
        DivergedError: The loss or the gradient is no finite number any more; the checkpoint of
            the epoch before is left in its folder.
    """
    job = TrainingJob(
        config, settings, interactions, held_out, text_vectors, seed, checkpoint.absolute()
    )
    if settings.workers > 1:
        from heliograph.models.data_parallel import train_on_workers  # Ray takes seconds to import

        train_on_workers(job, epoch_done)
        run = begin(job, torch.device("cpu"))  # where it is, there may be no GPU
    else:
        run = begin(job, _device(settings))
        train(job, run, Team(), epoch_done)
    return run.best_model(), run.epochs


def _device(settings: TrainConfig) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)
