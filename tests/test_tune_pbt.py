"""A population on Ray, killed and without its checkpoints, comes to what an unbroken one does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from heliograph.bundle import open_bundle
from heliograph.config_file import load_config
from heliograph_tune.population import latest, lineage
from heliograph_tune.promote import promote
from heliograph_tune.records import Record
from heliograph_tune.run_folder import RunFolder
from heliograph_tune.standings import standings
from search_runs import (
    PATIENCE_S,
    finished,
    kill_driver,
    outcomes,
    resume,
    run,
    searching,
    wait_for,
)
from small_shop import Silent

pytestmark = pytest.mark.cluster

POPULATION, INTERVAL, EPOCHS = 4, 1, 3
TRIALS = 1 + POPULATION * EPOCHS // INTERVAL
SEARCH: dict[str, Any] = {
    "name": "item-lm",
    "config": "shop.yaml",
    "overrides": [
        f"train.epochs={EPOCHS}",
        "train.patience=40",
        "train.lr=1e-5",
        "train.device=cpu",
    ],
    "search": "item_lm",
    "space": {
        "train.lr": {"type": "log_uniform", "low": 1e-5, "high": 1e-2},
        "train.dropout": {"type": "uniform", "low": 0, "high": 0.5},
    },
    "scheduler": "pbt",
    "pbt": {"population": POPULATION, "interval": INTERVAL},
    "budget": {"minutes": 30, "concurrency": 2},
    "repeat": {"best": 1, "seeds": 1},
}


@pytest.fixture(scope="module")
def shop(embedded_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a shop with the search of a population."""
    folder = Path(shutil.copytree(embedded_shop, tmp_path_factory.mktemp("searched") / "shop"))
    (folder / "search.yaml").write_text(yaml.safe_dump(SEARCH))
    return folder


@pytest.fixture(scope="module")
def unbroken(shop: Path) -> Path:
    """Run the search, which nobody disturbs."""
    run(shop / "search.yaml")
    return shop


def folder_of(shop: Path) -> RunFolder:
    return RunFolder(shop / "workspace" / "searches" / "item-lm-1")


def test_every_member_is_trained_and_nothing_is_left_of_it(unbroken: Path) -> None:
    record = folder_of(unbroken).record()
    assert [end.state for end in record.finished.values()] == ["done"] * (TRIALS + 2)
    members = [asked for asked in record.of("search") if asked.member]
    assert len(members) == POPULATION * EPOCHS // INTERVAL
    for asked in members:
        assert asked.member is not None
        ran = [step.step for step in record.finished[asked.number].steps]
        assert ran == list(range(1, 1 + INTERVAL * asked.member.generation))
    assert not list((folder_of(unbroken).path / "checkpoints").glob("*"))


def test_the_worst_go_on_as_copies_of_the_best(unbroken: Path) -> None:
    record = folder_of(unbroken).record()
    copies = 0
    for asked in record.of("search"):
        if asked.member is None or asked.member.parent is None:
            continue
        parent = record.asked[asked.member.parent]
        theirs, own = record.finished[parent.number].steps, record.finished[asked.number].steps
        assert [step.values["loss"] for step in own[: len(theirs)]] == [
            step.values["loss"] for step in theirs
        ]
        if parent.member is not None and parent.member.place != asked.member.place:
            copies += 1
            assert latest(asked.settings) != latest(parent.settings)
    assert copies == EPOCHS // INTERVAL - 1  # one of four at each comparison


def test_the_winner_is_a_configuration_that_anybody_can_train(unbroken: Path) -> None:
    folder = folder_of(unbroken)
    search, record = folder.search(), folder.record()
    best = load_config(folder.best)
    winner = record.asked[standings(search, record)[0].number]
    assert best.train.epochs == best.train.patience == winner.settings["train.epochs"]
    assert best.train.max_minutes is None
    assert [change.epoch for change in best.train.schedule] == [
        change["epoch"] for change in winner.settings["train.schedule"]
    ]
    assert len(lineage(record, winner.number)) * INTERVAL == best.train.epochs
    (again,) = [asked for asked in record.of("repeat") if asked.repeats == winner.number]
    assert len(record.finished[again.number].steps) == best.train.epochs


def test_a_killed_population_without_its_checkpoints_comes_to_the_same(
    embedded_shop: Path, unbroken: Path, tmp_path: Path
) -> None:
    shop = Path(shutil.copytree(embedded_shop, tmp_path / "shop"))
    (shop / "search.yaml").write_text(yaml.safe_dump(SEARCH | {"repeat": {"best": 0}}))
    with searching(shop / "search.yaml") as process:
        journal = folder_of(shop).journal
        wait_for(lambda: journal.is_file() and len(finished(shop)) >= POPULATION + 3, process)
        kill_driver(process)
        process.communicate(timeout=PATIENCE_S)
    before = finished(shop)
    assert len(before) < TRIALS
    assert list((folder_of(shop).path / "checkpoints").iterdir())
    shutil.rmtree(folder_of(shop).path / "checkpoints")
    resume(shop / "search.yaml")
    assert finished(shop)[: len(before)] == before
    assert by_place(shop) == by_place(unbroken)
    assert sorted(end.number for end in finished(shop)) == list(range(TRIALS))


def by_place(shop: Path) -> dict[tuple[int, int], tuple[dict[str, Any], float]]:
    record: Record = folder_of(shop).record()
    found = outcomes(shop)
    return {
        (asked.member.generation, asked.member.place): found[asked.number]
        for asked in record.of("search")
        if asked.member
    }


def test_a_schedule_is_promoted(unbroken: Path) -> None:
    folder = folder_of(unbroken)
    found = promote(folder, Silent())
    bundle = open_bundle(Path(found.bundle))
    assert bundle.config.train == load_config(folder.best).train
    assert found.trial == standings(folder.search(), folder.record())[0].number
    assert found.settings["train.schedule"] == [
        change.model_dump(exclude_unset=True) for change in bundle.config.train.schedule
    ]
