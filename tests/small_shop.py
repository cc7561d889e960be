"""A shop small enough to build and serve in seconds, whose right answer is known.

Every user walks round a circle of items: item 0 is followed by item 1, and so on. Items of the
first half are of the category `early`, the others `late`.
"""

from __future__ import annotations

import csv
from pathlib import Path

import yaml

from heliograph.build import STAGES, Build
from heliograph.config_file import load_config
from heliograph.workspace import StageResult

ITEMS = 40
USERS = 120
STEPS = 12
"""Length of each user's walk, which starts at item `user % ITEMS`."""


class Silent:
    """A report that nobody reads."""

    def __init__(self) -> None:
        self.finished: list[StageResult] = []

    def start(self, stage: str, total: int | None) -> None:
        """Begin a stage."""

    def advance(self, steps: int, note: str = "") -> None:
        """Note progress."""

    def finish(self, result: StageResult) -> None:
        """End a stage."""
        self.finished.append(result)


def item_id(position: int) -> str:
    """Return the identifier of the item at a position on the circle."""
    return f"item-{position % ITEMS:03d}"


def write_shop(folder: Path) -> Path:
    """Write items, events and configuration; returns the path of the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title", "part", "shelf"])
        for position in range(ITEMS):
            part = "early" if position < ITEMS // 2 else "late"
            rows.writerow([item_id(position), f"The {position}th thing", part, position // 10])
    with (folder / "events.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp"])
        for user in range(USERS):
            for step in range(STEPS):
                rows.writerow([f"user-{user}", item_id(user + step), 1_000_000 + step])
    config = {
        "name": "small-shop",
        "workspace": "workspace",
        "items": {"path": "items.csv", "format": "csv", "categories": "part"},
        "events": {"path": "events.csv", "format": "csv"},
        "models": {
            "als": {"factors": 8},
            "item_lm": {
                "hidden_size": 32,
                "heads": 1,
                "layers": 1,
                "max_history": 20,
                "spare_tokens": 4,
            },
        },
        "train": {"epochs": 12, "dropout": 0.0, "tokens_per_batch": 256, "lr": 5e-3},
        "candidates": {"count": 32, "depth": 40},
    }
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def write_new_edition(path: Path) -> None:
    """Give every item another title and another place among the others."""
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    rows = [[row[0], f"{row[1]}, new edition", *row[2:]] for row in rows]
    added = [[f"added-{number}", f"Something else {number}", "late", "9"] for number in range(7)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *added, *reversed(rows)])


def build_shop(path: Path, until: str = "bundle") -> list[StageResult]:
    """Run the stages of a shop; returns what each did."""
    report = Silent()
    with Build(load_config(path), report) as build:
        for stage, run in STAGES.items():
            run(build)
            if stage == until:
                break
    return report.finished
