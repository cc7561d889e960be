"""Evaluation on other splits: a circle that everyone walks round, so the next item is known."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from heliograph.build import STAGES, Build
from heliograph.bundle import METRICS_FILE
from heliograph.config import SplitName
from heliograph.config_file import ConfigError, load_config
from heliograph.workspace import InputError
from small_shop import STEPS, USERS, Silent, item_id

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def shop(embedded_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("splits") / "shop"
    return Path(shutil.copytree(embedded_shop, folder)) / "shop.yaml"


def evaluate(shop: Path, split: SplitName, *overrides: str) -> dict[str, Any]:
    """Evaluate on a split; returns what was found."""
    with Build(load_config(shop, overrides), Silent()) as build:
        for stage in ("ingest", "embed"):
            STAGES[stage](build)
        folder = build.evaluate_split(split).folder
    found: dict[str, Any] = json.loads((folder / METRICS_FILE).read_text())
    return found


def write_events(path: Path, first: int, last: int) -> Path:
    """Write the steps of every user from one to another."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp"])
        for user in range(USERS):
            for step in range(first, last):
                rows.writerow([f"user-{user}", item_id(user + step), 1_000_000 + step])
    return path


def test_the_latest_events_of_all_users_are_found_by_those_who_read_order(shop: Path) -> None:
    found = evaluate(shop, "temporal")
    assert found["split"][0] == f"{USERS} of {USERS} users are evaluated"
    models = found["test"]["models"]
    assert models["transitions"]["recall@5"] > 0.95
    assert models["pipeline"]["recall@5"] > 0.95
    assert models["popularity"]["recall@5"] < 0.5


def test_users_whom_training_has_not_seen_are_served_by_what_is_known_of_them(shop: Path) -> None:
    found = evaluate(shop, "new-users", "splits.test_share=0.2")
    asked = found["test"]["cohorts"]["user"]["pipeline"]
    assert [(row["cohort"], row["users"]) for row in asked] == [("new", USERS // 5)]
    assert found["test"]["models"]["pipeline"]["hit_rate@5"] > 0.95


def test_users_of_whom_nothing_is_known_get_what_is_popular(shop: Path) -> None:
    found = evaluate(shop, "new-users", "splits.known=0")
    models = found["test"]["models"]
    assert models["pipeline"] == models["popularity"] == models["retrieval"]


def test_items_that_training_has_not_seen_are_known_by_their_text_alone(shop: Path) -> None:
    found = evaluate(shop, "new-items", "splits.test_share=0.2")
    models = found["test"]["models"]
    assert models["text"]["recall@10"] > models["transitions"]["recall@10"]
    asked = found["test"]["cohorts"]["items to find"]["text"]
    assert [row["cohort"] for row in asked] == ["some new"]


def test_events_of_another_file_are_looked_for(shop: Path) -> None:
    later = write_events(shop.parent / "later.csv", STEPS, STEPS + 1)
    found = evaluate(shop, "given", f"splits.given={later}")
    assert found["test"]["models"]["pipeline"]["recall@5"] > 0.95


def test_events_that_training_has_seen_are_refused_and_named(shop: Path) -> None:
    later = write_events(shop.parent / "overlap.csv", STEPS - 1, STEPS + 1)
    with pytest.raises(InputError, match=rf"{USERS} of {2 * USERS} evaluation events.*user user-0"):
        evaluate(shop, "given", f"splits.given={later}")


def test_given_events_need_a_path(shop: Path) -> None:
    with pytest.raises(ConfigError, match="needs splits.given"):
        evaluate(shop, "given")
