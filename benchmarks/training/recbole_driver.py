"""Trains RecBole's SASRec for one order: `python recbole_driver.py ORDER.json`.

RecBole loads, augments (a sample a prefix, its way to train) and batches the data, and its model
computes the loss; the loop around them is that of its Trainer without its evaluation and logs.
Runs in RecBole's environment; our type checker does not see RecBole.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataloader import TrainDataLoader
from recbole.model.sequential_recommender import SASRec
from recbole.utils import init_seed

from course import Course
from task import Order, Task

NAME = "race"
SETTINGS = {
    "hidden_size": 64,
    "inner_size": 256,
    "n_layers": 2,
    "n_heads": 2,
    "loss_type": "CE",
    "learning_rate": 1e-3,
    # The default 2048 takes eight times the work for a step; the learning rate is for either.
    "train_batch_size": 256,
    "train_neg_sample_args": None,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "group_by": "user", "mode": "full"},
    "use_gpu": False,
    "save_dataset": False,
    "show_progress": False,
}


def main() -> None:
    """Train until the target or the limit."""
    order = Order.load(Path(sys.argv[1]))
    torch.set_num_threads(order.threads)
    task = Task.load(Path(order.task))
    write_interactions(task, Path(order.work))
    config = Config(model="SASRec", dataset=NAME, config_dict=SETTINGS | settings_of(order))
    init_seed(order.seed, config["reproducibility"])
    dataset = create_dataset(config).build()[0]
    batches = TrainDataLoader(config, dataset, None, shuffle=True)
    model = SASRec(config, dataset)
    train(
        model, batches, config["learning_rate"], Course(order, task), Scorer(model, dataset, task)
    )


def settings_of(order: Order) -> dict[str, object]:
    """Return the settings that the order decides."""
    return {
        "data_path": order.work,
        "checkpoint_dir": str(Path(order.work) / "saved"),
        "MAX_ITEM_LIST_LENGTH": order.max_length,
        "hidden_dropout_prob": order.dropout,
        "attn_dropout_prob": order.dropout,
        "seed": order.seed,
    }


def write_interactions(task: Task, folder: Path) -> None:
    """Write the training events as RecBole's atomic file; the place in the history is the time."""
    path = folder / NAME / f"{NAME}.inter"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, history in enumerate(task.histories()):
            file.writelines(f"{user}\t{item}\t{time}\n" for time, item in enumerate(history))


def train(model: SASRec, batches: TrainDataLoader, lr: float, course: Course, score) -> None:
    """Run epochs, timing everything but validation."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    while True:
        model.train()
        course.start()
        for batch in batches:
            optimizer.zero_grad()
            model.calculate_loss(batch).backward()
            optimizer.step()
            if course.is_due():
                course.stop()
                if course.validate(score):
                    return
                model.train()
                course.start()
        course.stop()
        if course.validate(score):
            return


class Scorer:
    """Scores in our numbers of items; items that RecBole has not seen in training get -inf."""

    def __init__(self, model: SASRec, dataset, task: Task) -> None:
        self.model = model
        self.n_items = task.n_items
        tokens = dataset.field2id_token[dataset.iid_field]  # the first one is padding
        self.ours = np.array([int(token) for token in tokens[1:]])
        self.theirs = np.zeros(task.n_items, np.int64)
        self.theirs[self.ours] = np.arange(1, len(tokens))

    @torch.inference_mode()
    def __call__(self, histories) -> np.ndarray:
        self.model.eval()
        length = self.model.max_seq_length
        sequences = np.zeros((len(histories), length), np.int64)
        for row, history in enumerate(histories):
            newest = self.theirs[history[-length:]]
            sequences[row, : len(newest)] = newest
        lengths = torch.tensor([min(len(history), length) for history in histories])
        states = self.model(torch.from_numpy(sequences), lengths)
        scores = np.full((len(histories), self.n_items), -np.inf, np.float32)
        scores[:, self.ours] = (states @ self.model.item_embedding.weight[1:].T).numpy()
        return scores


if __name__ == "__main__":
    main()
