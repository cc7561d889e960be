"""Trains RecTools' SASRec for one order: `python rectools_driver.py ORDER.json`.

RecTools loads and batches the data and fits with its Lightning trainer; a callback holds the clock.
Runs in RecTools' environment; our type checker does not see RecTools.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from course import Course
from task import Order, Task


def main() -> None:
    """Train until the target or the limit."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    order = Order.load(Path(sys.argv[1]))
    torch.set_num_threads(order.threads)
    seed_everything(order.seed)
    task = Task.load(Path(order.task))
    clock = Clock(Course(order, task), order.max_length)
    model = SASRecModel(
        n_blocks=2,
        n_heads=2,
        n_factors=64,
        dropout_rate=order.dropout,
        session_max_len=order.max_length,
        loss="softmax",
        lr=1e-3,
        batch_size=128,
        get_trainer_func=lambda: trainer(clock),
    )
    model.fit(Dataset.construct(interactions(task)))


def interactions(task: Task) -> pd.DataFrame:
    """Return the training events; the place in the history is the time."""
    lengths = np.diff(task.offsets)
    places = np.arange(len(task.items)) - np.repeat(task.offsets[:-1], lengths)
    return pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(lengths)), lengths),
            Columns.Item: task.items,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2000-01-01") + pd.to_timedelta(places, unit="s"),
        }
    )


def trainer(clock: Clock) -> Trainer:
    """Return RecTools' default trainer without an end of its own."""
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        callbacks=[clock],
    )


class Clock(Callback):
    """Times epochs with their batches, and validates between them."""

    def __init__(self, course: Course, max_length: int) -> None:
        self.course = course
        self.max_length = max_length

    def on_train_epoch_start(self, trainer: Trainer, pl_module) -> None:
        self.course.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.course.is_due() and not trainer.should_stop:
            self.course.stop()
            self._validate(trainer, pl_module)
            self.course.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module) -> None:
        self.course.stop()
        if not trainer.should_stop:
            self._validate(trainer, pl_module)

    def _validate(self, trainer: Trainer, pl_module) -> None:
        scorer = Scorer(pl_module, self.course.task.n_items, self.max_length)
        trainer.should_stop = self.course.validate(scorer)
        pl_module.train()


class Scorer:
    """Scores in our numbers of items; items that RecTools has not seen in training get -inf."""

    def __init__(self, module, n_items: int, max_length: int) -> None:
        self.network = module.torch_model
        self.n_items = n_items
        self.max_length = max_length
        preparator = module.data_preparator
        self.first = preparator.n_item_extra_tokens
        self.ours = preparator.get_known_item_ids().astype(np.int64)
        self.theirs = np.zeros(n_items, np.int64)
        self.theirs[self.ours] = np.arange(self.first, self.first + len(self.ours))

    @torch.inference_mode()
    def __call__(self, histories) -> np.ndarray:
        self.network.eval()
        sequences = np.zeros((len(histories), self.max_length), np.int64)
        for row, history in enumerate(histories):
            known = self.theirs[history]
            newest = known[known > 0][-self.max_length :]
            sequences[row, self.max_length - len(newest) :] = newest
        items = self.network.item_model.get_all_embeddings()
        encoded = self.network.encode_sessions({"x": torch.from_numpy(sequences)}, items)[:, -1, :]
        scores = np.full((len(histories), self.n_items), -np.inf, np.float32)
        scores[:, self.ours] = (encoded @ items[self.first :].T).numpy()
        return scores


if __name__ == "__main__":
    main()
