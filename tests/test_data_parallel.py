"""Two workers train the model that one would, and go on when one of them is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch

from heliograph.config import ItemLMConfig, TrainChange, TrainConfig
from heliograph.models.item_lm import ItemLM
from heliograph.models.item_lm_run import DivergedError, Epoch
from heliograph.models.item_lm_training import fit_item_lm
from heliograph.splits import leave_one_out
from heliograph.workspace import InputError
from processes import descendants, title
from worlds import clustered_vectors, cycle

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]

N_ITEMS = 12
SHAPE = ItemLMConfig(hidden_size=32, layers=1, heads=1, max_history=6, spare_tokens=4)
ONE = TrainConfig(
    epochs=4, tokens_per_batch=64, dropout=0.0, lr=5e-3, device="cpu", precision="float32"
)
TWO = ONE.model_copy(update={"workers": 2})


def silent(epoch: Epoch) -> None:
    """Ignore an epoch."""


def fit(
    checkpoint: Path,
    train: TrainConfig,
    epoch_done: Callable[[Epoch], None] = silent,
    n_users: int = 41,
) -> tuple[ItemLM, list[Epoch]]:
    world = leave_one_out(cycle(N_ITEMS, n_users, length=9))
    vectors = clustered_vectors(N_ITEMS, 1, dim=N_ITEMS)
    held_out = world.validation_items()
    return fit_item_lm(SHAPE, train, world.train, held_out, vectors, 5, checkpoint, epoch_done)


def assert_same_course(first: list[Epoch], second: list[Epoch]) -> None:
    assert [epoch.number for epoch in first] == [epoch.number for epoch in second]
    np.testing.assert_allclose(
        [epoch.loss for epoch in first], [epoch.loss for epoch in second], rtol=1e-4
    )
    np.testing.assert_allclose(
        [epoch.validation_ndcg or 0 for epoch in first],
        [epoch.validation_ndcg or 0 for epoch in second],
        atol=0.02,
    )


class GivenUpError(Exception):
    """Stands for whatever ends the caller's patience."""


def workers() -> list[psutil.Process]:
    """Return the processes of this test's Ray that are training."""
    return [child for child in descendants() if "RayTrainWorker" in title(child)]


def test_two_workers_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    change = {"negatives": 6, "schedule": (TrainChange(epoch=3, lr=1e-4),)}
    told: list[Epoch] = []
    alone, expected = fit(tmp_path / "one", ONE.model_copy(update=change))
    together, epochs = fit(tmp_path / "two", TWO.model_copy(update=change), told.append)
    assert_same_course(epochs, expected)
    assert told == epochs
    torch.testing.assert_close(together.embeddings, alone.embeddings, atol=1e-3, rtol=1e-2)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "epoch-0004.safetensors",
        "run.json",
    ]


def test_a_worker_that_is_killed_costs_at_most_the_epoch_it_was_in(tmp_path: Path) -> None:
    users = 1500  # enough that an epoch outlasts the look at the checkpoint
    alone, expected = fit(tmp_path / "one", ONE, n_users=users)
    told: list[int] = []
    killed: list[int] = []

    def kill_one(epoch: Epoch) -> None:
        told.append(epoch.number)
        if epoch.number == 2:
            killed.append(min(process.pid for process in workers()))
            os.kill(killed[0], signal.SIGKILL)

    together, epochs = fit(tmp_path / "killed", TWO, kill_one, users)
    assert_same_course(epochs, expected)
    torch.testing.assert_close(together.embeddings, alone.embeddings, atol=1e-3, rtol=1e-2)
    assert told == [1, 2, 3, 4]
    assert killed


def test_workers_that_diverge_are_not_started_again(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"training diverged: .* of epoch 1"):
        fit(tmp_path, TWO.model_copy(update={"lr": 1e30}))


def test_whoever_gives_up_takes_the_workers_along_and_one_can_go_on(tmp_path: Path) -> None:
    def give_up(epoch: Epoch) -> None:
        raise GivenUpError

    with pytest.raises(GivenUpError):
        fit(tmp_path, TWO.model_copy(update={"epochs": 10_000}), give_up)
    deadline = time.monotonic() + 60
    everything = ray.cluster_resources()["CPU"]
    while time.monotonic() < deadline:
        if not workers() and ray.available_resources().get("CPU") == everything:
            break
        time.sleep(0.5)
    assert not workers()
    assert ray.available_resources()["CPU"] == everything
    (checkpoint,) = tmp_path.glob("epoch-*.safetensors")
    reached = int(checkpoint.stem.removeprefix("epoch-"))
    told: list[Epoch] = []
    _, epochs = fit(tmp_path, ONE.model_copy(update={"epochs": reached + 2}), told.append)
    assert [epoch.number for epoch in told] == [reached + 1, reached + 2]
    assert len(epochs) == reached + 2


def test_more_workers_than_processors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train.workers is 3, but the Ray cluster has 2 CPUs"):
        fit(tmp_path, ONE.model_copy(update={"workers": 3}))
