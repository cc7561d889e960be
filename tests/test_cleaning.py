"""The account of the data: what came is kept or rejected, and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from heliograph.catalog import ITEMS_FILE, REJECTED_ITEMS_FILE
from heliograph.cleaning import Cleaning, account, mostly_rejected
from heliograph.events import EVENTS_FILE, REJECTED_EVENTS_FILE
from heliograph.splits import leave_one_out
from worlds import interactions


def write_rows(folder: Path, kept: tuple[str, int], rejected: tuple[str, list[str]]) -> None:
    """Write a table of so many rows, and one of rejected rows with these reasons."""
    pq.write_table(pa.table({"item_id": ["x"] * kept[1]}), folder / kept[0])
    reasons = pa.array(rejected[1], pa.string())
    pq.write_table(pa.table({"reason": reasons}), folder / rejected[0])


def test_kept_and_rejected_rows_are_counted_by_reason_the_most_frequent_first(
    tmp_path: Path,
) -> None:
    write_rows(tmp_path, (ITEMS_FILE, 3), (REJECTED_ITEMS_FILE, []))
    reasons = ["a rare one", "timestamp is before 1970", "timestamp is before 1970"]
    write_rows(tmp_path, (EVENTS_FILE, 5), (REJECTED_EVENTS_FILE, reasons))
    found = account(tmp_path, tmp_path, leave_one_out(interactions([[0, 1, 2], [0, 1]])).counts)
    assert (found.items.kept, found.items.rejected, found.items.came) == (3, {}, 3)
    assert list(found.events.rejected.items()) == [
        ("timestamp is before 1970", 2),
        ("a rare one", 1),
    ]
    assert (found.events.kept, found.events.came, found.users) == (5, 8, 2)
    assert "1 of 2 users are evaluated" in found.split


def test_the_account_survives_json_in_order(tmp_path: Path) -> None:
    write_rows(tmp_path, (ITEMS_FILE, 1), (REJECTED_ITEMS_FILE, ["a", "b", "b"]))
    write_rows(tmp_path, (EVENTS_FILE, 3), (REJECTED_EVENTS_FILE, []))
    found = account(tmp_path, tmp_path, leave_one_out(interactions([[0, 1, 2]])).counts)
    again = Cleaning.parse(json.loads(json.dumps(asdict(found), sort_keys=True)))
    assert again == found
    assert list(again.items.rejected) == ["b", "a"]


def test_a_table_that_lost_most_of_its_rows_is_told(tmp_path: Path) -> None:
    write_rows(tmp_path, (ITEMS_FILE, 2), (REJECTED_ITEMS_FILE, ["item_id is missing"] * 2))
    future = ["item is unknown", *["timestamp is in the future"] * 1200]
    write_rows(tmp_path, (EVENTS_FILE, 1), (REJECTED_EVENTS_FILE, future))
    assert mostly_rejected(tmp_path, tmp_path) == [
        "1,201 of 1,202 rows were rejected (1,200: timestamp is in the future; "
        f"1: item is unknown); see {tmp_path / REJECTED_EVENTS_FILE}"
    ]
