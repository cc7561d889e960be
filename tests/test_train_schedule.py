"""Settings of training change between epochs, and a checkpoint is of whoever shares its past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from heliograph.config import SCHEDULED, HeliographConfig, ItemLMConfig, TrainConfig
from heliograph.config_file import dump_config, load_config, parse_config
from heliograph.models.item_lm import ItemLM
from heliograph.models.item_lm_run import Course, Epoch, copy_run
from heliograph.models.item_lm_training import fit_item_lm
from heliograph.models.schedule import settings_in
from heliograph.splits import leave_one_out
from worlds import clustered_vectors, cycle

N_ITEMS = 12
SHAPE = ItemLMConfig(hidden_size=32, layers=1, heads=1, max_history=6, spare_tokens=4)
FIRST: dict[str, Any] = {"lr": 5e-3, "weight_decay": 0.01, "dropout": 0.2}
THEN: dict[str, Any] = {"lr": 5e-4, "weight_decay": 0.5, "dropout": 0.0}


def train(*schedule: dict[str, Any], **changes: Any) -> TrainConfig:
    settings = FIRST | {"epochs": 4, "tokens_per_batch": 64, "device": "cpu", "schedule": schedule}
    return TrainConfig(**settings | changes)


def fit(checkpoint: Path, settings: TrainConfig) -> tuple[ItemLM, list[Epoch], int]:
    """Train; also returns how many epochs were trained here and now."""
    told: list[Epoch] = []
    world = leave_one_out(cycle(N_ITEMS, n_users=40, length=9))
    vectors = clustered_vectors(N_ITEMS, 1, dim=N_ITEMS)
    held_out = world.validation_items()
    model, epochs = fit_item_lm(
        SHAPE, settings, world.train, held_out, vectors, 5, checkpoint, told.append
    )
    return model, epochs, len(told)


def course(epochs: list[Epoch]) -> list[tuple[float, float | None]]:
    return [(epoch.loss, epoch.validation_ndcg) for epoch in epochs]


def test_a_schedule_that_changes_nothing_changes_nothing(tmp_path: Path) -> None:
    _, plain, _ = fit(tmp_path / "plain", train())
    _, same, _ = fit(tmp_path / "same", train({"epoch": 3} | FIRST))
    assert course(plain) == course(same)


@pytest.mark.parametrize("name", SCHEDULED)
def test_each_change_shows_from_its_epoch_on(name: str, tmp_path: Path) -> None:
    _, plain, _ = fit(tmp_path / "plain", train())
    _, changed, _ = fit(tmp_path / "changed", train({"epoch": 3, name: THEN[name]}))
    assert course(plain)[:2] == course(changed)[:2]
    assert plain[3].loss != changed[3].loss


def test_halves_trained_one_after_the_other_come_to_the_same_as_the_whole(tmp_path: Path) -> None:
    schedule = {"epoch": 3} | THEN
    whole, epochs, _ = fit(tmp_path / "whole", train(schedule))
    fit(tmp_path / "half", train(epochs=2))
    copy_run(tmp_path / "half", tmp_path / "rest")
    rest, continued, told = fit(tmp_path / "rest", train(schedule))
    assert told == 2
    assert course(continued) == course(epochs)
    assert torch.equal(rest.embeddings, whole.embeddings)


def test_a_checkpoint_with_another_past_is_not_continued(tmp_path: Path) -> None:
    fit(tmp_path, train({"epoch": 2, "lr": 1e-3}, epochs=2))
    _, _, told = fit(tmp_path, train({"epoch": 2, "lr": 2e-3}))
    assert told == 4


def test_a_course_is_that_of_its_changes_so_far() -> None:
    schedule = train({"epoch": 3, "lr": 1e-3}, {"epoch": 5, "lr": 1e-4}).schedule
    whole, start = Course("task", schedule), Course("task", schedule[:1])
    assert Course("task").until(2) == whole.until(2) == "task"
    assert whole.until(3) == start.until(9) == whole.until(4)
    assert whole.until(5) != start.until(5)


def test_what_a_change_leaves_out_stays_as_it_was() -> None:
    settings = train({"epoch": 3, "lr": 1e-3}, {"epoch": 5, "dropout": 0.0})
    held = [settings_in(settings, epoch) for epoch in (2, 3, 4, 5, 60)]
    assert [one.lr for one in held] == [5e-3, 1e-3, 1e-3, 1e-3, 1e-3]
    assert [one.dropout for one in held] == [0.2, 0.2, 0.2, 0.0, 0.0]


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ([{"epoch": 1, "lr": 1e-3}], "greater than or equal to 2"),
        ([{"epoch": 2}], "epoch 2 changes nothing; name a value of lr, weight_decay, dropout"),
        ([{"epoch": 2, "lr": 0}], "greater than 0"),
        ([{"epoch": 2, "dropout": 1.0}], "less than 1"),
        ([{"epoch": 2, "averaging": 0.9}], "Extra inputs are not permitted"),
        ([{"epoch": 3, "lr": 1.0}, {"epoch": 2, "lr": 1.0}], "epochs must ascend, none twice"),
        ([{"epoch": 3, "lr": 1.0}, {"epoch": 3, "lr": 2.0}], "epochs must ascend, none twice"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(schedule: list[Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        train(*schedule)


def test_a_schedule_is_written_and_read_as_it_is_and_only_where_there_is_one(
    tmp_path: Path,
) -> None:
    place = {"path": "x.csv", "format": "csv"}
    raw = {"name": "shop", "workspace": "/w", "items": place, "events": place}
    config: HeliographConfig = parse_config(raw, "test")
    assert "schedule" not in dump_config(config)
    with_one = config.model_copy(update={"train": train({"epoch": 2, "lr": 1e-3})})
    (tmp_path / "shop.yaml").write_text(dump_config(with_one))
    assert load_config(tmp_path / "shop.yaml").train == with_one.train
    assert with_one.train.model_dump()["schedule"] == ({"epoch": 2, "lr": 1e-3},)
