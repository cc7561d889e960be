"""The epochs of an item LM: the same loop for one process and for a team of them.

Knows nothing of Ray: `data_parallel` starts a team, `item_lm_training` a single process.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from heliograph.config import ItemLMConfig, TrainConfig
from heliograph.interactions import History, Interactions
from heliograph.models.item_lm import Dropout, ItemLM, ItemLMNetwork
from heliograph.models.item_lm_batches import Batch, training_batches
from heliograph.models.item_lm_run import Course, DivergedError, Epoch, Run, best_epoch
from heliograph.models.item_lm_validation import ndcg_sum
from heliograph.models.negatives import NegativeSampler
from heliograph.models.next_item_loss import next_item_loss
from heliograph.models.precision import matrix_dtype
from heliograph.models.schedule import settings_in
from heliograph.models.team import Team
from heliograph.models.weight_average import WeightAverage
from heliograph.native_memory import bound_kernels, give_back
from heliograph.splits import NextItems
from heliograph.workspace import digest_of

MAX_GRADIENT = 1.0
"""Norm to which the gradient of a step is shortened."""

EpochDone = Callable[[Epoch], None]


@dataclass(frozen=True)
class TrainingJob:
    """What decides the course of a training run, and where its checkpoint is."""

    config: ItemLMConfig
    train: TrainConfig
    interactions: Interactions
    held_out: NextItems | None
    text_vectors: NDArray[np.float32]
    seed: int
    checkpoint: Path

    def course(self) -> Course:
        """Return what decides the course of a run, but not where it runs or when it stops."""
        settings = self.train.model_dump(
            exclude={"schedule", "epochs", "patience", "max_minutes", "device", "workers"}
        )
        arrays = [self.interactions.offsets, self.interactions.items, self.text_vectors]
        if self.train.shuffle_ties:
            arrays.append(self.interactions.timestamps)
        if self.held_out is not None:
            arrays += [self.held_out.targets, *self.held_out.histories]
        data = [hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() for array in arrays]
        shape = self.config.model_dump_json()
        task = digest_of(shape, json.dumps(settings), str(self.seed), *data)
        return Course(task, self.train.schedule)


def begin(job: TrainingJob, device: torch.device) -> Run:
    """Start a run from random weights, or from its checkpoint where there is one.

    Raises:
        InputError: The checkpoint is damaged.
    """
    bound_kernels()
    torch.manual_seed(job.seed)
    network = ItemLMNetwork(job.config, job.text_vectors, job.train.dropout).to(device)
    groups = _parameter_groups(network, job.train)
    optimizer = torch.optim.AdamW(groups, lr=job.train.lr, fused=True)
    average = WeightAverage(network, job.train.averaging)
    run = Run(network, optimizer, average, job.checkpoint, job.course())
    run.restore()
    return run


def train(job: TrainingJob, run: Run, team: Team, epoch_done: EpochDone) -> None:
    """Train a run to its end, as one of a team; the first of it writes the checkpoints.

    Raises:
        DivergedError: The loss or the gradient is no finite number any more.
    """
    trainer = _Trainer(job, run, team)
    while not _is_finished(run.epochs, job):
        run.note(trainer.epoch(len(run.epochs) + 1))
        if team.leads:
            run.write()
        give_back()
        epoch_done(run.epochs[-1])


class _Trainer:
    """Computes this process's share of every epoch."""

    def __init__(self, job: TrainingJob, run: Run, team: Team) -> None:
        self.job = job
        self.run = run
        self.team = team
        self.device = run.network.residual.device
        self.dtype = matrix_dtype(job.train.precision, self.device)
        self.validation = job.held_out and job.held_out.sample(job.train.validation_users, job.seed)
        self.sampler = None
        if job.train.negatives is not None:
            counts = np.bincount(job.interactions.items, minlength=run.network.n_items)
            self.sampler = NegativeSampler(counts, job.train.negatives)

    def epoch(self, number: int) -> Epoch:
        """Train for one epoch and validate."""
        start = time.perf_counter()
        settings = settings_in(self.job.train, number)
        _take_up(settings, self.run)
        # so that dropout after a resume is that of an unbroken run, and differs between processes
        torch.manual_seed(self.job.seed + number + (self.team.rank << 32))
        self.run.network.train()
        total, count = 0.0, 0
        length, tokens = self.job.config.max_history, settings.tokens_per_batch
        rng = np.random.default_rng([self.job.seed, number])
        histories = self._histories(rng)
        for batch in training_batches(histories, length, tokens, self.team.share, rng):
            total += self._step(batch, number) * batch.positions
            count += batch.positions
        score = self._validate()
        seconds = self._sum(time.perf_counter() - start if self.team.leads else 0.0)
        return Epoch(number, total / max(count, 1), score, seconds)

    def _histories(self, rng: np.random.Generator) -> list[History]:
        """Return the histories that an epoch learns from; a whole team draws the same ones."""
        interactions = self.job.interactions
        if self.job.train.shuffle_ties:
            interactions = interactions.with_ties_shuffled(rng)
        return interactions.histories()

    def _step(self, batch: Batch, epoch: int) -> float:
        """Move the weights by one batch; returns its mean loss over the team."""
        network = self.run.network
        self.run.optimizer.zero_grad()
        mean = torch.zeros((), device=self.device)
        if batch.sequences:
            share = sum(map(len, batch.sequences)) / batch.positions
            rng = np.random.default_rng([self.job.seed, epoch, batch.number])
            mean = share * next_item_loss(network, batch.sequences, self.dtype, self.sampler, rng)
            mean.backward()  # type: ignore[no-untyped-call]
        loss = self._sum(mean.item())
        self._check_finite("loss", loss, batch, epoch)
        self.team.add_up_gradients(network.parameters())
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT)
        self._check_finite("gradient norm", norm.item(), batch, epoch)
        self.run.optimizer.step()
        self.run.average.update()
        return loss

    def _validate(self) -> float | None:
        if self.validation is None or not len(self.validation.targets):
            return None
        users = len(self.validation.targets)
        mine = self.validation.pick(np.arange(users)[self.team.share])
        network = self.run.average.network
        with torch.inference_mode():
            model = ItemLM(network, network.embeddings())
        return self._sum(ndcg_sum(model, mine)) / users

    def _sum(self, value: float) -> float:
        """Add up a number over the team, so that all of it come to the same decisions."""
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        self.team.add_up(total)
        return total.item()

    def _check_finite(self, name: str, value: float, batch: Batch, epoch: int) -> None:
        if math.isfinite(value):
            return
        kept = f"epoch {epoch - 1} is kept in {self.job.checkpoint}" if epoch > 1 else "none yet"
        lr = settings_in(self.job.train, epoch).lr
        raise DivergedError(
            f"training diverged: the {name} of batch {batch.number} of epoch {epoch} is {value} "
            f"(checkpoint: {kept}); lower train.lr (now {lr:g}), set "
            "train.precision=float32 or change the seed, and train again"
        )


def _parameter_groups(network: ItemLMNetwork, train: TrainConfig) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.dim() <= 1]
    return [
        {"params": matrices, "weight_decay": train.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _take_up(settings: TrainConfig, run: Run) -> None:
    """Let the optimiser and the network have the settings of an epoch."""
    groups = _parameter_groups(run.network, settings)
    for group, new in zip(run.optimizer.param_groups, groups, strict=True):
        group |= {"lr": settings.lr, "weight_decay": new["weight_decay"]}
    for module in run.network.modules():
        if isinstance(module, Dropout):
            module.share = settings.dropout


def _is_finished(epochs: Sequence[Epoch], job: TrainingJob) -> bool:
    """Without validation the number of epochs alone decides; with nobody in it, minutes do too."""
    if not epochs or len(epochs) >= job.train.epochs or job.held_out is None:
        return len(epochs) >= job.train.epochs
    if len(epochs) - best_epoch(epochs).number >= job.train.patience:
        return True
    seconds = sum(epoch.seconds for epoch in epochs) + epochs[-1].seconds
    return job.train.max_minutes is not None and seconds > job.train.max_minutes * 60
