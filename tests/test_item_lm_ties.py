"""What happened at one and the same time has no order: the item LM need not learn the file's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from heliograph.config import ItemLMConfig, TrainConfig
from heliograph.interactions import Interactions
from heliograph.models.item_lm import ItemLM
from heliograph.models.item_lm_run import Epoch
from heliograph.models.item_lm_training import fit_item_lm
from worlds import clustered_vectors, interactions

PAIRS = 6
"""Items 0 and 1 come together, 2 and 3, and so on: the file writes down the even one first."""

CONFIG = ItemLMConfig(hidden_size=32, layers=2, heads=1, max_history=6, spare_tokens=4)
AS_WRITTEN = TrainConfig(
    epochs=30, tokens_per_batch=128, dropout=0.1, lr=1e-2, averaging=0.9, device="cpu"
)
SHUFFLED = AS_WRITTEN.model_copy(update={"shuffle_ties": True})


class KilledError(Exception):
    """Stands for the end of a process."""


def pairs(users: int = 60, length: int = 3) -> Interactions:
    """Let each user have pairs of items, of which both have the same time."""
    rng = np.random.default_rng(1)
    drawn = [rng.permutation(PAIRS)[:length] for _ in range(users)]
    in_order = interactions([[2 * n + odd for n in user for odd in (0, 1)] for user in drawn])
    return replace(in_order, timestamps=np.tile(np.repeat(np.arange(length), 2), users))


def fit(
    folder: Path, train: TrainConfig, world: Interactions, stop_after: int = 99
) -> tuple[ItemLM, list[int]]:
    """Return the model and the epochs that were trained for it now."""
    trained = []

    def epoch_done(epoch: Epoch) -> None:
        trained.append(epoch.number)
        if epoch.number == stop_after:
            raise KilledError

    vectors = clustered_vectors(2 * PAIRS, 1, dim=2 * PAIRS)
    model, _ = fit_item_lm(CONFIG, train, world, None, vectors, 5, folder, epoch_done)
    return model, trained


def partners_found(model: ItemLM) -> list[bool]:
    """Return whether the likeliest new item after each one is the other one of its pair."""
    items = np.arange(2 * PAIRS, dtype=np.int32)
    scores = model.scores(list(items[:, None]))
    scores[items, items] = -np.inf
    found: list[bool] = (scores.argmax(axis=1) == items ^ 1).tolist()
    return found


def test_items_of_one_time_predict_each_other_and_not_only_in_the_order_of_the_file(
    tmp_path: Path,
) -> None:
    as_written, _ = fit(tmp_path / "written", AS_WRITTEN, pairs())
    assert partners_found(as_written) == [True, False] * PAIRS
    shuffled, _ = fit(tmp_path / "shuffled", SHUFFLED, pairs())
    assert all(partners_found(shuffled))


def test_a_killed_run_goes_on_with_the_orders_of_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, _ = fit(tmp_path / "unbroken", SHUFFLED, pairs())
    with pytest.raises(KilledError):
        fit(tmp_path / "killed", SHUFFLED, pairs(), stop_after=2)
    resumed, trained = fit(tmp_path / "killed", SHUFFLED, pairs())
    assert trained[0] == 3
    assert torch.equal(resumed.embeddings, unbroken.embeddings)


@pytest.mark.parametrize(("train", "goes_on_at"), [(AS_WRITTEN, 3), (SHUFFLED, 1)])
def test_other_times_are_other_data_only_where_ties_are_shuffled(
    train: TrainConfig, goes_on_at: int, tmp_path: Path
) -> None:
    world = pairs()
    with pytest.raises(KilledError):
        fit(tmp_path, train, world, stop_after=2)
    _, trained = fit(tmp_path, train, replace(world, timestamps=np.arange(len(world))))
    assert trained[0] == goes_on_at
