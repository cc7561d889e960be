"""One configuration of one model, fitted on training data and judged on validation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from heliograph.config import HeliographConfig
from heliograph.evaluation import measure, top_items
from heliograph.models import Model
from heliograph.splits import NextItems
from heliograph_tune.knowledge import Knowledge, vectors_of
from heliograph_tune.records import Report, Step
from heliograph_tune.search_file import BEST, BY_EPOCH, SECONDS

USERS_A_CHUNK = 512
"""Users scored at once: bounds memory to this many rows of the catalogue."""


class ModelTrial(Protocol):
    """Fits a model and measures it."""

    def __call__(
        self,
        known: Knowledge,
        config: HeliographConfig,
        ks: tuple[int, ...],
        checkpoint: Path,
        report: Report,
    ) -> dict[str, float]:
        """Return metrics on validation.

        Args:
            known: What may be known.
            config: The drawn configuration.
            ks: Cut-offs of the metrics.
            checkpoint: Folder to go on from, and to leave something to go on from.
            report: Is told of every step, if there are several.
        """
        ...


def als(
    known: Knowledge,
    config: HeliographConfig,
    ks: tuple[int, ...],
    checkpoint: Path,
    report: Report,
) -> dict[str, float]:
    """Fit and measure ALS."""
    from heliograph.models.als import Als

    start = time.perf_counter()
    model = Als.fit(config.models.als, known.train, known.n_items, config.seed)
    return _measured(model, known, config, ks, time.perf_counter() - start)


def text(
    known: Knowledge,
    config: HeliographConfig,
    ks: tuple[int, ...],
    checkpoint: Path,
    report: Report,
) -> dict[str, float]:
    """Fit and measure the text model."""
    from heliograph.models.text import Text

    start = time.perf_counter()
    model = Text.fit(config.models.text, vectors_of(known))
    return _measured(model, known, config, ks, time.perf_counter() - start)


def transitions(
    known: Knowledge,
    config: HeliographConfig,
    ks: tuple[int, ...],
    checkpoint: Path,
    report: Report,
) -> dict[str, float]:
    """Fit and measure transitions."""
    from heliograph.models.transitions import Transitions

    start = time.perf_counter()
    model = Transitions.fit(config.models.transitions, known.train, known.n_items)
    return _measured(model, known, config, ks, time.perf_counter() - start)


def item_lm(
    known: Knowledge,
    config: HeliographConfig,
    ks: tuple[int, ...],
    checkpoint: Path,
    report: Report,
) -> dict[str, float]:
    """Train the item LM, an epoch a step, and measure its best epoch.

    Epochs that an earlier worker of the trial left in the checkpoint are reported again.
    """
    from heliograph.models.item_lm_epochs import TrainingJob
    from heliograph.models.item_lm_run import Epoch, best_epoch, epochs_of, read_record
    from heliograph.models.item_lm_training import fit_item_lm
    from heliograph.models.text import Text

    vectors = Text.fit(config.models.text, vectors_of(known)).item_vectors
    shape, seed = config.models.item_lm, config.seed
    train = config.train.model_copy(update={"workers": 1})  # trials run side by side instead
    best = 0.0

    def epoch_done(epoch: Epoch) -> None:
        nonlocal best
        score = epoch.validation_ndcg or 0.0
        best = max(best, score)
        values = {BY_EPOCH: score, BEST: best, "loss": epoch.loss, SECONDS: epoch.seconds}
        report(Step(step=epoch.number, values=values))

    job = TrainingJob(shape, train, known.train, known.held_out, vectors, seed, checkpoint)
    for epoch in epochs_of(read_record(checkpoint, job.course())):
        epoch_done(epoch)
    model, epochs = fit_item_lm(
        shape, train, known.train, known.held_out, vectors, seed, checkpoint, epoch_done
    )
    seconds = sum(epoch.seconds for epoch in epochs)
    metrics = _measured(model, known, config, ks, seconds)
    return metrics | {BY_EPOCH: best_epoch(epochs).validation_ndcg or 0.0}


MODEL_TRIALS: dict[str, ModelTrial] = {
    "als": als,
    "text": text,
    "transitions": transitions,
    "item_lm": item_lm,
}


def _measured(
    model: Model, known: Knowledge, config: HeliographConfig, ks: tuple[int, ...], seconds: float
) -> dict[str, float]:
    asked = known.held_out.sample(config.evaluation.max_users, config.seed)
    ranking = _ranking(model, asked, max(ks))
    return measure(ranking, asked.targets, ks, known.n_items) | {SECONDS: seconds}


def _ranking(model: Model, asked: NextItems, k: int) -> NDArray[np.int32]:
    chunks = [
        top_items(model.scores(histories), histories, k)
        for histories in (
            asked.histories[start : start + USERS_A_CHUNK]
            for start in range(0, len(asked.targets), USERS_A_CHUNK)
        )
    ]
    return np.concatenate(chunks) if chunks else np.empty((0, k), np.int32)
