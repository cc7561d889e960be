"""Fits the item LM: next-item prediction with a softmax over the whole catalogue.

Every epoch ends with a validation and a checkpoint, so a killed run goes on where it was and
an early stop returns the best epoch, not the last.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heliograph.config import ItemLMConfig, TrainConfig
from heliograph.evaluation import ndcg, rank_of, top_items
from heliograph.events import History
from heliograph.models.item_lm import ItemLM, ItemLMNetwork, batches_by_length, pad
from heliograph.models.item_lm_run import Epoch as Epoch
from heliograph.models.item_lm_run import Run, quality
from heliograph.models.item_tokens import BOS, FIRST_ITEM
from heliograph.models.softmax_loss import softmax_loss
from heliograph.splits import LeaveOneOut
from heliograph.workspace import digest_of

IGNORED = -100
"""Target of a padded position, left out of the loss."""

VALIDATION_BATCH = 1024
"""Users scored at once: bounds the memory that their scores of all items take."""


EpochDone = Callable[[Epoch], None]


def fit_item_lm(
    config: ItemLMConfig,
    train: TrainConfig,
    split: LeaveOneOut,
    text_vectors: NDArray[np.float32],
    seed: int,
    checkpoint: Path,
    epoch_done: EpochDone,
) -> tuple[ItemLM, list[Epoch]]:
    """Train until validation NDCG@10 stops improving, or epochs or minutes run out.

    Args:
        config: Shape of the model.
        train: How it is trained.
        split: Training histories and validation items.
        text_vectors: (items, dim) of length 1.
        seed: Two runs with the same seed, data, threads and machine give the same model.
        checkpoint: Folder that is written every epoch; a run of the same data, seed and settings
            that is found there is continued, any other is replaced.
        epoch_done: Told about every epoch.

    Returns:
        The model of the best epoch, and all epochs.

    Raises:
        InputError: The checkpoint is damaged.
    """
    torch.manual_seed(seed)
    device = _device(train)
    network = ItemLMNetwork(config, text_vectors, train.dropout).to(device)
    optimizer = torch.optim.AdamW(_parameter_groups(network, train), lr=train.lr, fused=True)
    run = Run(network, optimizer, checkpoint, _task(config, train, split, text_vectors, seed))
    run.restore()
    histories = split.train.histories()
    started = time.perf_counter() - sum(epoch.seconds for epoch in run.epochs)
    while not _is_finished(run.epochs, train, time.perf_counter() - started):
        begin = time.perf_counter()
        number = len(run.epochs) + 1
        torch.manual_seed(seed + number)  # dropout after a resume is that of an unbroken run
        loss = _train_epoch(
            network, optimizer, histories, train, np.random.default_rng([seed, number])
        )
        score = validation_ndcg(network, split)
        run.finish(Epoch(number, loss, score, time.perf_counter() - begin))
        epoch_done(run.epochs[-1])
    return run.best_model(), run.epochs


def validation_ndcg(network: ItemLMNetwork, split: LeaveOneOut) -> float:
    """Return NDCG@10 of the validation items among all items, seen ones masked; 0 without any."""
    network.eval()
    histories = split.validation_histories()
    total = 0.0
    with torch.inference_mode():
        model = ItemLM(network, network.embeddings())
        for start in range(0, len(histories), VALIDATION_BATCH):
            some = slice(start, start + VALIDATION_BATCH)
            top = top_items(model.scores(histories[some]), histories[some], 10)
            total += float(ndcg(rank_of(split.validation[some], top), 10).sum())
    return total / max(len(histories), 1)


def windows(
    histories: Sequence[History], max_history: int, rng: np.random.Generator
) -> list[NDArray[np.int32]]:
    """Cut histories into training sequences of at most `max_history` items.

    Long histories are cut at places that differ between epochs, so that every item is learned
    with long and with short contexts.
    """
    sequences = []
    for history in histories:
        if len(history) <= max_history:
            first = len(history)
        else:
            first = int(rng.integers(max_history // 2, max_history + 1))
        cuts = [0, *range(first, len(history), max_history), len(history)]
        sequences += [history[a:b] for a, b in zip(cuts, cuts[1:], strict=False) if b > a]
    return sequences


def _train_epoch(
    network: ItemLMNetwork,
    optimizer: torch.optim.Optimizer,
    histories: Sequence[History],
    train: TrainConfig,
    rng: np.random.Generator,
) -> float:
    network.train()
    total, count = 0.0, 0
    for tokens, targets in _batches(histories, network.config.max_history, train, rng):
        tokens, targets = tokens.to(network.residual.device), targets.to(network.residual.device)
        embeddings = network.embeddings()
        states = network(tokens, embeddings)
        predicted = targets != IGNORED
        items = embeddings[FIRST_ITEM : FIRST_ITEM + network.n_items]
        loss = softmax_loss(states[predicted], items, targets[predicted])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        size = int(predicted.sum())
        total, count = total + float(loss.detach()) * size, count + size
    return total / max(count, 1)


def _batches(
    histories: Sequence[History], max_history: int, train: TrainConfig, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    cut = windows(histories, max_history, rng)
    sequences = [cut[row] for row in rng.permutation(len(cut))]  # equally long ones mix anew
    lengths = [len(sequence) for sequence in sequences]
    groups = list(batches_by_length(lengths, train.tokens_per_batch))
    for group in rng.permutation(len(groups)):
        chosen = [sequences[row] for row in groups[group]]
        inputs = [[BOS, *(sequence[:-1] + FIRST_ITEM).tolist()] for sequence in chosen]
        yield pad(inputs), pad([sequence.tolist() for sequence in chosen], IGNORED)


def _parameter_groups(network: ItemLMNetwork, train: TrainConfig) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.dim() <= 1]
    return [
        {"params": matrices, "weight_decay": train.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _is_finished(epochs: Sequence[Epoch], train: TrainConfig, seconds: float) -> bool:
    if not epochs:
        return False
    best = max(epochs, key=quality)
    return (
        len(epochs) >= train.epochs
        or len(epochs) - best.number >= train.patience
        or seconds + epochs[-1].seconds > train.max_minutes * 60
    )


def _task(
    config: ItemLMConfig,
    train: TrainConfig,
    split: LeaveOneOut,
    text_vectors: NDArray[np.float32],
    seed: int,
) -> str:
    """Hash what decides the course of a run, but not where it runs or when it stops."""
    course = train.model_dump(exclude={"epochs", "patience", "max_minutes", "device"})
    arrays = (split.train.offsets, split.train.items, split.users, split.validation, text_vectors)
    data = [hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() for array in arrays]
    return digest_of(config.model_dump_json(), json.dumps(course), str(seed), *data)


def _device(train: TrainConfig) -> torch.device:
    if train.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(train.device)
