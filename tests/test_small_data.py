"""Data too small to judge or to learn much from: it is built and served, or refused early."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from heliograph import display
from heliograph.against import compare_with_graph
from heliograph.build import STAGES, Build
from heliograph.bundle import METRICS_FILE, Bundle, open_bundle
from heliograph.candidates import Retriever
from heliograph.catalog import ITEMS_FILE, REJECTED_ITEMS_FILE, Catalogue, require_choice
from heliograph.comparison import NOBODY, cutoffs
from heliograph.config import SplitName
from heliograph.config_file import parse_config
from heliograph.embedding import VECTORS_FILE
from heliograph.events import EVENTS, EVENTS_FILE, REJECTED_EVENTS_FILE
from heliograph.report import render
from heliograph.splits import NextItems
from heliograph.workspace import InputError
from small_shop import Silent, item_id

MODEL = {"hidden_size": 32, "heads": 1, "layers": 1, "max_history": 8, "spare_tokens": 2}
NO_REASONS = pa.table({"reason": pa.array([], pa.string())})


class Shop:
    """A build whose items, events and vectors are there already, so that no stage needs Ray."""

    def __init__(
        self,
        folder: Path,
        items: int,
        histories: Sequence[Sequence[int]],
        ks: Sequence[int] = (10,),
    ) -> None:
        self.items, self.histories = items, histories
        table = {"path": "x.csv", "format": "csv"}
        raw = {
            "name": "tiny",
            "workspace": str(folder / "workspace"),
            "items": table,
            "events": table,
            "models": {"als": {"factors": 2}, "item_lm": MODEL},
            "train": {"epochs": 2},
            "evaluation": {"ks": list(ks)},
        }
        self.report = Silent()
        self.build = Build(parse_config(raw, "test"), self.report)
        self.build.stages.run("items", {}, {}, self._items)
        self.build.stages.run("events", {}, {}, self._events)
        self.build.stages.run("embeddings", {}, {}, self._embeddings)

    def _items(self, folder: Path) -> dict[str, float]:
        ids = [item_id(item) for item in range(self.items)]
        none: list[list[str]] = [[] for _ in ids]
        categories = pa.array(none, pa.list_(pa.string()))
        table = {"item_id": ids, "title": ids, "text": ids, "categories": categories}
        pq.write_table(pa.table(table), folder / ITEMS_FILE)
        pq.write_table(NO_REASONS, folder / REJECTED_ITEMS_FILE)
        return {}

    def _events(self, folder: Path) -> dict[str, float]:
        rows: list[dict[str, object]] = [
            {
                "event_id": f"{user}-{at}",
                "user_id": f"u{user}",
                "item_id": item_id(item),
                "timestamp": at * 1_000_000,
                "type": "view",
                "value": None,
            }
            for user, history in enumerate(self.histories)
            for at, item in enumerate(history)
        ]
        pq.write_table(pa.Table.from_pylist(rows, EVENTS), folder / EVENTS_FILE)
        pq.write_table(NO_REASONS, folder / REJECTED_EVENTS_FILE)
        return {}

    def _embeddings(self, folder: Path) -> dict[str, float]:
        vectors = np.eye(self.items, max(self.items, 2), dtype=np.float32)
        save_file({"vectors": vectors}, folder / VECTORS_FILE)
        return {}

    def bundle(self) -> Bundle:
        """Run every stage behind the embeddings."""
        for stage in ("train", "index", "evaluate", "refit", "bundle"):
            STAGES[stage](self.build)
        return open_bundle(self.build.config.workspace / "bundles")


@pytest.mark.parametrize(
    ("items", "histories"),
    [
        (5, [[0, 1], [1, 2], [2, 3]]),
        (3, [[0], [1], [1]]),
        (2, [[0]]),
    ],
)
def test_where_no_user_has_three_events_the_bundle_is_made_without_an_evaluation(
    tmp_path: Path, items: int, histories: list[list[int]]
) -> None:
    shop = Shop(tmp_path, items, histories)
    bundle = shop.bundle()
    metrics = bundle.metrics()
    assert (metrics["users"], metrics["skipped"]) == (0, NOBODY)
    counts = {result.name: result.counts for result in shop.report.finished}
    assert counts["evaluation"] == counts["refit/evaluation"] == {"users": 0}
    assert [epoch["validation_ndcg"] for epoch in bundle.epochs()] == [None, None]
    path = bundle.path(METRICS_FILE)
    assert display.comparison(path) == display.headline(path) == [NOBODY]
    assert "Nobody was evaluated" in render(bundle)


def test_without_an_evaluation_what_follows_comes_first_and_what_is_popular_next(
    tmp_path: Path,
) -> None:
    bundle = Shop(tmp_path, 5, [[0, 1], [4], [4], [3]]).bundle()
    retriever = Retriever(bundle.sources(), bundle.config.candidates, bundle.blend())
    found = retriever.retrieve([np.array([0], np.int32)], 4)
    assert found.items.tolist() == [[1, 4, 3, 2]]


@pytest.mark.parametrize(
    ("items", "histories"),
    [
        (3, [[0, 1, 2, 0, 1], [0, 1, 2, 0, 1]]),  # both have had everything before the last two
        (2, [[0, 1, 0]]),
        (3, [[0, 1, 2]]),
    ],
)
def test_users_for_whom_nothing_is_left_are_evaluated(
    tmp_path: Path, items: int, histories: list[list[int]]
) -> None:
    bundle = Shop(tmp_path, items, histories).bundle()
    assert bundle.metrics()["users"] == len(histories)
    assert bundle.metrics()["skipped"] is None
    assert len(display.headline(bundle.path(METRICS_FILE))) == 2
    assert "Nobody was evaluated" not in render(bundle)


def test_a_catalogue_of_one_item_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one item, a, .*items\.item_id .*rejected_items"):
        require_choice(Catalogue(pa.table({"item_id": ["a"]})), tmp_path)
    require_choice(Catalogue(pa.table({"item_id": ["a", "b"]})), tmp_path)


@pytest.mark.parametrize("ks", [(5, 20), (1,)])
def test_what_decides_is_measured_whatever_the_cut_offs(
    tmp_path: Path, ks: tuple[int, ...]
) -> None:
    shop = Shop(tmp_path, 5, [[0, 1, 2], [1, 2, 3], [2, 3, 4]], ks)
    row = shop.bundle().metrics()["test"]["models"]["pipeline"]
    assert cutoffs(shop.build.config) == sorted({*ks, 10})
    assert {f"ndcg@{k}" for k in cutoffs(shop.build.config)} <= set(row)
    counts = {result.name: result.counts for result in shop.report.finished}
    assert counts["evaluation"]["pipeline_ndcg@10"] == round(row["ndcg@10"], 4)


@pytest.mark.parametrize(
    ("split", "histories", "lacking"),
    [
        ("new-users", [[0, 1, 2]], "leaves no training event"),
        ("new-users", [[0], [1], [2]], "leaves no user to evaluate"),
        ("new-items", [[0], [0]], "leaves no training event"),
    ],
)
def test_a_split_that_leaves_one_side_empty_is_refused_before_anything_is_trained(
    tmp_path: Path, split: SplitName, histories: list[list[int]], lacking: str
) -> None:
    shop = Shop(tmp_path, 3, histories)
    with pytest.raises(InputError, match=f"the split {split} {lacking}.*are evaluated"):
        shop.build.evaluate_split(split)
    assert [result.name for result in shop.report.finished][3:] == []


def test_events_without_times_are_not_split_by_time(tmp_path: Path) -> None:
    shop = Shop(tmp_path, 3, [[0, 1, 2]] * 3)
    untimed = shop.build.config.events.model_copy(update={"timestamp": None})
    shop.build.config = shop.build.config.model_copy(update={"events": untimed})
    with pytest.raises(InputError, match=r"events\.timestamp is null; name the column"):
        shop.build.evaluate_split("temporal")


def test_a_graph_is_not_compared_on_nobody(tmp_path: Path) -> None:
    nobody = NextItems([], np.zeros(0, np.int32))
    bundle = Shop(tmp_path, 3, [[0, 1]]).bundle()
    with pytest.raises(InputError, match="no user has three events"):
        compare_with_graph("http://127.0.0.1:9", bundle, nobody, lambda steps: None)


def test_why_there_are_no_figures_stands_in_the_metrics(tmp_path: Path) -> None:
    shop = Shop(tmp_path, 3, [[0, 1]])
    path = shop.bundle().path(METRICS_FILE)
    assert display.skipped(path) == NOBODY == json.loads(path.read_text())["skipped"]
