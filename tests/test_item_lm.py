"""The item LM learns what follows what and survives a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heliograph.config import TrainConfig
from heliograph.models import item_lm_epochs
from heliograph.models.item_lm import (
    ItemLM,
    ItemLMNetwork,
)
from heliograph.models.item_lm_run import DivergedError, Epoch, best_epoch
from heliograph.models.item_lm_training import fit_item_lm
from heliograph.models.item_lm_validation import ndcg_sum
from heliograph.models.item_tokens import FIRST_ITEM, vocabulary_size
from heliograph.models.negatives import NegativeSampler
from heliograph.models.next_item_loss import next_item_loss
from heliograph.splits import LeaveOneOut, leave_one_out
from heliograph.workspace import InputError
from small_item_lm import N_ITEMS, SMALL, history, vectors
from worlds import clustered_vectors, cycle, interactions

QUICK = TrainConfig(epochs=4, tokens_per_batch=64, dropout=0.1, lr=5e-3, device="cpu")
LONG = QUICK.model_copy(update={"epochs": 20})


class KilledError(Exception):
    """Stands for the end of a process."""


def cycle_split() -> LeaveOneOut:
    return leave_one_out(cycle(N_ITEMS, n_users=40, length=9))


def fit(
    checkpoint: Path,
    train: TrainConfig = QUICK,
    split: LeaveOneOut | None = None,
    seed: int = 5,
    stop_after: int = 1000,
) -> tuple[ItemLM, list[Epoch]]:
    def epoch_done(epoch: Epoch) -> None:
        if epoch.number == stop_after:
            raise KilledError

    split = split or cycle_split()
    held_out = split.validation_items()
    return fit_item_lm(SMALL, train, split.train, held_out, vectors(), seed, checkpoint, epoch_done)


def fit_blindly(
    checkpoint: Path, split: LeaveOneOut, train: TrainConfig = QUICK
) -> tuple[ItemLM, list[Epoch]]:
    return fit_item_lm(
        SMALL, train, split.train, None, vectors(), 5, checkpoint, lambda epoch: None
    )


@dataclass(frozen=True)
class Run:
    """A finished training and its folder, for tests to read and to compare with."""

    model: ItemLM
    epochs: list[Epoch]
    folder: Path


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train four epochs, as `fit` does unless told otherwise."""
    folder = tmp_path_factory.mktemp("unbroken")
    return Run(*fit(folder), folder)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train long enough to learn the cycle."""
    folder = tmp_path_factory.mktemp("long")
    return Run(*fit(folder, LONG), folder)


class PoisonedLoss:
    """The loss of a batch, until it is asked for once too often."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(
        self,
        network: ItemLMNetwork,
        sequences: Sequence[NDArray[np.int32]],
        dtype: torch.dtype,
        sampler: NegativeSampler | None,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        self.left -= 1
        loss = next_item_loss(network, sequences, dtype, sampler, rng)
        return loss * torch.nan if self.left < 0 else loss


def assert_same_weights(first: ItemLM, second: ItemLM) -> None:
    left, right = first.network.state_dict(), second.network.state_dict()
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


# training


def test_a_cycle_is_learned(long: Run) -> None:
    model, epochs = long.model, long.epochs
    histories = [history((item - 1) % N_ITEMS, item) for item in range(N_ITEMS)]
    expected = [*range(1, N_ITEMS), 0]
    assert model.scores(histories).argmax(axis=1).tolist() == expected
    assert epochs[-1].loss < epochs[0].loss
    assert best_epoch(epochs).validation_ndcg == 1.0


def test_spare_tokens_stay_silent_and_never_surface_in_scores(unbroken: Run) -> None:
    model = unbroken.model
    assert len(model.embeddings) == vocabulary_size(N_ITEMS, SMALL.spare_tokens) == 64
    assert not model.embeddings[FIRST_ITEM + N_ITEMS :].any()
    assert model.scores([history(1)]).shape == (1, N_ITEMS)


def test_an_item_nobody_has_met_is_recommended_for_its_text(tmp_path: Path) -> None:
    clusters, each = 3, 8
    cold = [clusters * (each - 1) + cluster for cluster in range(clusters)]  # the last of each
    rng = np.random.default_rng(0)
    split = leave_one_out(
        interactions(
            [
                (rng.permutation(each - 1)[:6] * clusters + user % clusters).tolist()
                for user in range(90)
            ]
        )
    )
    model, _ = fit_item_lm(
        SMALL,
        QUICK.model_copy(update={"epochs": 15}),
        split.train,
        split.validation_items(),
        clustered_vectors(clusters, each, dim=8),
        seed=1,
        checkpoint=tmp_path,
        epoch_done=lambda epoch: None,
    )
    for cluster in range(clusters):
        scores = model.scores([history(cluster, cluster + clusters)])[0]
        others = np.arange(clusters * each) % clusters != cluster
        assert scores[cold[cluster]] > scores[others].max()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    unbroken: Run, tmp_path: Path
) -> None:
    second, same = fit(tmp_path / "same")
    assert_same_weights(unbroken.model, second)
    assert [epoch.loss for epoch in unbroken.epochs] == [epoch.loss for epoch in same]
    other, _ = fit(tmp_path / "other", seed=6)
    assert not torch.equal(unbroken.model.embeddings, other.embeddings)


@pytest.mark.parametrize("kills", [[1], [3], [1, 2, 3]])
def test_a_killed_run_goes_on_to_the_weights_of_an_unbroken_one(
    kills: list[int], unbroken: Run, tmp_path: Path
) -> None:
    for epoch in kills:
        with pytest.raises(KilledError):
            fit(tmp_path, stop_after=epoch)
    resumed, epochs = fit(tmp_path)
    assert_same_weights(resumed, unbroken.model)
    assert [epoch.loss for epoch in epochs] == [epoch.loss for epoch in unbroken.epochs]


def test_a_kill_while_the_next_checkpoint_is_written_does_no_harm(
    unbroken: Run, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        fit(tmp_path, stop_after=2)
    (tmp_path / "epoch-0003.safetensors").write_bytes(b"cut o")
    resumed, _ = fit(tmp_path)
    assert_same_weights(resumed, unbroken.model)


def test_only_the_newest_checkpoint_is_kept(unbroken: Run) -> None:
    assert [path.name for path in sorted(unbroken.folder.iterdir())] == [
        "epoch-0004.safetensors",
        "run.json",
    ]


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing"])
def test_a_damaged_checkpoint_is_an_error_that_says_what_to_delete(
    damage: str, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        fit(tmp_path, stop_after=2)
    tensors = tmp_path / "epoch-0002.safetensors"
    content = tensors.read_bytes()
    if damage == "missing":
        tensors.unlink()
    else:
        tensors.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(InputError, match=rf"{tensors} is damaged .*delete {tmp_path} to train"):
        fit(tmp_path)


@pytest.mark.parametrize("change", ["seed", "settings", "data"])
def test_the_checkpoint_of_another_run_is_not_continued(change: str, tmp_path: Path) -> None:
    train = QUICK.model_copy(update={"lr": 1e-3}) if change == "settings" else QUICK
    split = leave_one_out(cycle(N_ITEMS, 39, 9)) if change == "data" else None
    seed = 6 if change == "seed" else 5
    fresh, _ = fit(tmp_path / "fresh", train, split, seed)
    with pytest.raises(KilledError):
        fit(tmp_path / "used", stop_after=3)
    replaced, _ = fit(tmp_path / "used", train, split, seed)
    assert_same_weights(replaced, fresh)


def test_a_finished_run_goes_on_when_more_epochs_are_allowed(unbroken: Run, tmp_path: Path) -> None:
    longer = QUICK.model_copy(update={"epochs": 6})
    at_once, _ = fit(tmp_path / "at_once", longer)
    shutil.copytree(unbroken.folder, tmp_path / "finished")
    resumed, epochs = fit(tmp_path / "finished", longer)
    assert_same_weights(resumed, at_once)
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4, 5, 6]


def test_an_early_stop_returns_the_best_epoch(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    noise = leave_one_out(interactions([rng.permutation(N_ITEMS)[:8].tolist() for _ in range(30)]))
    train = QUICK.model_copy(update={"epochs": 40, "patience": 3})
    model, epochs = fit(tmp_path, train, noise)
    best = best_epoch(epochs)
    assert len(epochs) == best.number + 3 < 40
    mean = ndcg_sum(model, noise.validation_items()) / len(noise.users)
    assert mean == best.validation_ndcg
    assert mean == max(epoch.validation_ndcg or 0.0 for epoch in epochs)


def test_no_epoch_begins_after_the_time_is_up(tmp_path: Path) -> None:
    _, epochs = fit(tmp_path, QUICK.model_copy(update={"max_minutes": 1e-6}))
    assert len(epochs) == 1


def test_without_anybody_to_validate_on_epochs_and_minutes_decide(tmp_path: Path) -> None:
    pairs = leave_one_out(cycle(N_ITEMS, n_users=40, length=2))
    assert len(pairs.users) == 0
    patient = QUICK.model_copy(update={"epochs": 30, "patience": 3})
    model, epochs = fit(tmp_path / "all", patient, pairs)
    assert best_epoch(epochs).number == len(epochs) == 30
    assert {epoch.validation_ndcg for epoch in epochs} == {None}  # 0 would be a finding
    assert model.scores([history(4)]).argmax() == 5
    _, hurried = fit(tmp_path / "some", patient.model_copy(update={"max_minutes": 1e-6}), pairs)
    assert len(hurried) == 1


def test_the_checkpoint_holds_numbers_as_json(unbroken: Run) -> None:
    record = json.loads((unbroken.folder / "run.json").read_text())
    losses = [epoch.loss for epoch in unbroken.epochs]
    assert [entry["loss"] for entry in record["epochs"]] == losses


# averaging, precision, divergence


def test_averaged_weights_learn_the_cycle_too_and_differ_from_the_last_ones(
    long: Run, tmp_path: Path
) -> None:
    last, epochs = fit(tmp_path, LONG.model_copy(update={"averaging": 0.0}))
    for model in (long.model, last):
        assert model.scores([history(3, 4)]).argmax() == 5
    assert not torch.equal(long.model.embeddings, last.embeddings)
    together = min(len(epochs), len(long.epochs))  # either may have stopped early
    assert together > 4
    assert (
        [epoch.loss for epoch in epochs][:together]
        == [  # training is not touched
            epoch.loss for epoch in long.epochs
        ][:together]
    )


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"negatives": 8}])
def test_the_cycle_is_learned_in_bfloat16_and_from_a_few_negatives(
    change: dict[str, object], tmp_path: Path
) -> None:
    train = LONG.model_copy(update={"precision": "float32"} | change)
    model, _ = fit(tmp_path, train)
    assert model.embeddings.dtype == torch.float32
    histories = [history((item - 1) % N_ITEMS, item) for item in range(N_ITEMS)]
    assert model.scores(histories).argmax(axis=1).tolist() == [*range(1, N_ITEMS), 0]


def test_a_run_with_negatives_is_resumed_to_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    train = QUICK.model_copy(update={"negatives": 4})
    unbroken, _ = fit(tmp_path / "unbroken", train)
    with pytest.raises(KilledError):
        fit(tmp_path / "killed", train, stop_after=2)
    resumed, _ = fit(tmp_path / "killed", train)
    assert_same_weights(resumed, unbroken)


def test_a_step_that_is_no_number_any_more_stops_with_the_checkpoint_kept(
    unbroken: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as poisoned:
        poisoned.setattr(item_lm_epochs, "next_item_loss", PoisonedLoss(after=15))
        with pytest.raises(DivergedError, match=r"batch \d+ of epoch 3 is nan .*epoch 2 is kept"):
            fit(tmp_path)
    resumed, epochs = fit(tmp_path)  # what poisoned it is gone
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert_same_weights(resumed, unbroken.model)


def test_an_absurd_learning_rate_is_an_error_and_another_one_begins_anew(tmp_path: Path) -> None:
    absurd = QUICK.model_copy(update={"lr": 1e30})
    with pytest.raises(DivergedError, match=r"epoch 1 .*lower train\.lr \(now 1e\+30\)"):
        fit(tmp_path, absurd)
    _, epochs = fit(tmp_path)
    assert len(epochs) == 4


# without validation


def test_without_validation_the_model_is_that_of_the_last_epoch(
    unbroken: Run, tmp_path: Path
) -> None:
    model, blind = fit_blindly(tmp_path, cycle_split())
    assert [epoch.loss for epoch in blind] == [epoch.loss for epoch in unbroken.epochs]
    assert {epoch.validation_ndcg for epoch in blind} == {None}
    assert best_epoch(unbroken.epochs).number == len(blind)  # so the best epoch is the last one
    assert_same_weights(model, unbroken.model)


def test_without_validation_every_epoch_is_trained_whatever_time_it_takes(tmp_path: Path) -> None:
    hurried = QUICK.model_copy(update={"max_minutes": 1e-6, "patience": 1})
    _, epochs = fit_blindly(tmp_path, cycle_split(), hurried)
    assert len(epochs) == QUICK.epochs
    record = json.loads((tmp_path / "run.json").read_text())
    assert [entry["validation_ndcg"] for entry in record["epochs"]] == [None] * QUICK.epochs


def test_a_run_with_validation_is_not_continued_without_it(tmp_path: Path) -> None:
    split = cycle_split()
    fresh, _ = fit_blindly(tmp_path / "fresh", split)
    with pytest.raises(KilledError):
        fit(tmp_path / "used", split=split, stop_after=2)
    model, _ = fit_blindly(tmp_path / "used", split)
    assert_same_weights(model, fresh)
