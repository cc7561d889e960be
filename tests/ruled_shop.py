"""The small shop with years, prices and times, and an item that is not out yet."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from heliograph.bundle import Bundle, open_bundle
from small_shop import ITEMS, build_shop, write_shop

SOON = "item-soon"
WEIGHTS = {"popularity": 0.1, "transitions": 0.5, "als": 0.5, "text": 0.2}
"""Fitted, they are 0: the item LM needs no help here."""


def build_ruled_shop(folder: Path) -> Bundle:
    """Build it; returns its bundle."""
    shop = write_shop(folder)
    describe(folder / "items.csv")
    config = yaml.safe_load(shop.read_text())
    config["candidates"]["weights"] = WEIGHTS
    shop.write_text(yaml.safe_dump(config))
    build_shop(shop)
    return open_bundle(folder / "workspace" / "bundles")


def describe(items: Path) -> None:
    """Give the items years, prices and times, the last is the newest; add one not out yet."""
    with items.open(newline="") as file:
        rows = list(csv.DictReader(file))
    now = datetime.now(UTC)
    for position, row in enumerate(rows):
        row["year"] = str(1980 + position) if position else "unknown"
        row["price"] = f"{position / 2:.2f}"
        row["added"] = (now - timedelta(days=10 * (ITEMS - position))).isoformat()
        row["available_from"] = "2020-01-01"
    soon = {"item_id": SOON, "title": "A thing to come", "part": "late", "shelf": "9"}
    rows.append(soon | {"year": "2030", "price": "1", "added": "", "available_from": "2999-01-01"})
    with items.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
