"""The pure parts of the training benchmark: ranking, the clock, dumps, the table."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import item_lm_driver
from course import Course
from heliograph.config import ItemLMConfig, TrainConfig
from heliograph.evaluation import ndcg as our_ndcg
from heliograph.evaluation import rank_of, top_items
from machine import describe_machine
from prepare import DATASETS, Prepared
from race import head, parse_arguments, write
from ranking import ndcg, validation_ndcg
from standings import Standing, Validation, read_dump, table
from task import Order, Task


@pytest.fixture
def task() -> Task:
    """Two users of four items: 0 1 -> 2 and 3 -> 0."""
    return Task(
        offsets=np.array([0, 2, 3]),
        items=np.array([0, 1, 3], np.int32),
        users=np.array([0, 1]),
        targets=np.array([2, 0], np.int32),
        n_items=4,
    )


def order_in(folder: Path, target: float = 0.5, limit_s: float = 60, check_s: float = 60) -> Order:
    return Order(
        task=str(folder),
        work=str(folder),
        dump=str(folder / "validations.jsonl"),
        target=target,
        limit_s=limit_s,
        check_s=check_s,
        threads=1,
        max_length=3,
        dropout=None,
        seed=1,
    )


def newest_first(histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
    """Score items by their number."""
    return np.tile(np.arange(4, dtype=np.float32), (len(histories), 1))


def test_ndcg_is_that_of_the_evaluation_also_with_ties_seen_targets_and_unscored_items() -> None:
    rng = np.random.default_rng(0)
    made = rng.integers(0, 6, (200, 30)).astype(np.float32)
    made[rng.random(made.shape) < 0.1] = -np.inf
    seen = [rng.choice(30, rng.integers(0, 9), replace=False).astype(np.int32) for _ in made]
    targets = rng.integers(0, 30, len(made)).astype(np.int32)
    expected = our_ndcg(rank_of(targets, top_items(made, seen, 10)), 10)
    assert 0 < expected.mean() < 1
    np.testing.assert_allclose(ndcg(made, seen, targets), expected)


def test_ranking_leaves_the_scores_as_they_are() -> None:
    given = np.ones((1, 3), np.float32)
    ndcg(given, [np.array([0], np.int32)], np.array([1], np.int32))
    assert np.isfinite(given).all()


def test_validation_masks_what_each_user_has_seen(task: Task) -> None:
    # user 0 ranks 3 before 2; user 1 has seen 3 and ranks 2, 1, 0
    expected = (1 / np.log2(3) + 1 / np.log2(4)) / 2
    assert validation_ndcg(task, newest_first) == pytest.approx(expected)


def test_a_task_and_an_order_are_read_as_they_were_written(task: Task, tmp_path: Path) -> None:
    task.save(tmp_path)
    read = Task.load(tmp_path)
    assert [history.tolist() for history in read.histories()] == [[0, 1], [3]]
    assert (read.targets.tolist(), read.users.tolist(), read.n_items) == ([2, 0], [0, 1], 4)
    order = order_in(tmp_path)
    order.save(tmp_path / "order.json")
    assert Order.load(tmp_path / "order.json") == order


def test_the_clock_stands_still_while_a_system_is_validated(task: Task, tmp_path: Path) -> None:
    course = Course(order_in(tmp_path, target=0.9), task)

    def slow(histories: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        time.sleep(0.2)
        return newest_first(histories)

    course.start()
    course.stop()
    assert not course.validate(slow)
    assert course.seconds < 0.1
    (entry,) = read_dump(tmp_path / "validations.jsonl")
    assert entry == Validation(course.seconds, validation_ndcg(task, newest_first))


def test_training_is_over_at_the_target_or_at_the_limit(task: Task, tmp_path: Path) -> None:
    reached = Course(order_in(tmp_path, target=0.5), task)
    assert reached.validate(newest_first)
    out_of_time = Course(order_in(tmp_path, target=0.9, limit_s=10), task)
    assert not out_of_time.validate(newest_first)
    out_of_time.seconds = 10.5
    assert out_of_time.validate(newest_first)


def test_an_epoch_is_interrupted_when_a_validation_is_due(task: Task, tmp_path: Path) -> None:
    course = Course(order_in(tmp_path, target=0.9, limit_s=100, check_s=10), task)
    course.seconds = 9.0
    assert not course.is_due()
    course.seconds = 11.0
    assert course.is_due()
    course.validate(newest_first)
    assert not course.is_due()
    course.seconds = 100.0
    assert course.is_due()


def test_a_validation_under_a_running_clock_is_a_mistake(task: Task, tmp_path: Path) -> None:
    course = Course(order_in(tmp_path), task)
    course.start()
    with pytest.raises(RuntimeError, match="stop"):
        course.validate(newest_first)


def test_a_dump_without_a_validation_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "dump").touch()
    with pytest.raises(ValueError, match="no validation"):
        read_dump(tmp_path / "dump")


def test_the_table_says_who_reached_the_target_when_and_who_did_not() -> None:
    ours = Standing(
        "ours", [Validation(10, 0.04), Validation(20, 0.06), Validation(30, 0.07)], 0.05
    )
    slower = Standing("slower", [Validation(30, 0.01), Validation(50, 0.05)], 0.05)
    never = Standing("never", [Validation(30, 0.03), Validation(70.04, 0.02)], 0.05)
    assert table([ours, slower, never]) == [
        "| | seconds to NDCG@10 0.05 | / ours | best NDCG@10 | validations |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| ours | 20.0 | 1.00 | 0.0700 | 3 |",
        "| slower | 50.0 | 2.50 | 0.0500 | 2 |",
        "| never | not reached after 70.0 s (best 0.0300) | > 3.50 | 0.0300 | 2 |",
    ]


def test_there_is_no_ratio_when_we_do_not_reach_the_target_ourselves() -> None:
    ours = Standing("ours", [Validation(10, 0.04)], 0.05)
    peer = Standing("peer", [Validation(30, 0.06)], 0.05)
    assert table([ours, peer])[-1] == "| peer | 30.0 | we did not reach it | 0.0600 | 1 |"


def test_the_folder_of_the_files_is_asked_for_where_no_package_holds_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert parse_arguments(["ml-100k"]).target == DATASETS["ml-100k"].target
    assert parse_arguments(["beauty", "folder", "--target", "0.04"]).target == 0.04
    for words in (["beauty"], ["ml-100k", "folder"]):
        with pytest.raises(SystemExit):
            parse_arguments(words)
        assert "FOLDER" in capsys.readouterr().err


def test_our_model_is_validated_after_every_epoch_until_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = (np.arange(64)[:, None] + np.arange(6)) % 16  # the next item is one further
    Task(
        offsets=np.arange(0, 64 * 5 + 1, 5),
        items=histories[:, :5].astype(np.int32).ravel(),
        users=np.arange(64),
        targets=histories[:, 5].astype(np.int32),
        n_items=16,
    ).save(tmp_path)
    settings = {
        "item_lm": ItemLMConfig(hidden_size=32, layers=1, heads=1, max_history=5).model_dump(),
        "train": TrainConfig(
            lr=0.03, dropout=0.0, averaging=0.5, tokens_per_batch=64, device="cpu"
        ).model_dump(),
    }
    (tmp_path / item_lm_driver.SETTINGS_FILE).write_text(json.dumps(settings))
    np.save(tmp_path / item_lm_driver.VECTORS_FILE, np.zeros((16, 1), np.float32))
    order = replace(order_in(tmp_path, target=0.99), threads=torch.get_num_threads())
    order.save(tmp_path / "order.json")
    monkeypatch.setattr(sys, "argv", ["item_lm_driver.py", str(tmp_path / "order.json")])
    item_lm_driver.main()
    found = read_dump(tmp_path / "validations.jsonl")
    assert found[-1].ndcg >= 0.99
    assert all(entry.ndcg < 0.99 for entry in found[:-1])
    assert np.all(np.diff([entry.seconds for entry in found]) > 0)


def test_the_results_are_written_for_machines_and_for_people(tmp_path: Path) -> None:
    arguments = parse_arguments(["ml-100k", "--threads", "1", "--out", str(tmp_path / "new")])
    facts: dict[str, object] = describe_machine() | {"threads": 1}
    prepared = Prepared(max_length=200, limit_s=240.0, users=1, items=2, events=3456)
    standings = [Standing("ours", [Validation(10, 0.2)], 0.1)]
    lines = [*head(arguments, facts, prepared), *table(standings)]
    write(arguments, facts, prepared, standings, lines)
    text = (tmp_path / "new" / "training-ml-100k.md").read_text()
    assert "3,456 training events" in text and "| ours | 10.0 | 1.00 |" in text
    record = json.loads((tmp_path / "new" / "training-ml-100k.json").read_text())
    assert record["systems"][0]["validations"] == [{"seconds": 10, "ndcg": 0.2}]
    assert record["options"]["target"] == DATASETS["ml-100k"].target
